#include "models/state.h"

#include <gtest/gtest.h>

#include <memory>

#include "checking/checked_run.h"

namespace rookery {
namespace {

class StateTest : public ::testing::Test {
 protected:
  StateTest() {
    StateLayout layout;
    layout.add("last", last_, {3});
    layout.add("matrix", matrix_, {2, 2, 2});
    layout.add("exponent", exponent_, {2}, -5);
    layout_ = std::make_shared<const StateLayout>(std::move(layout));
  }
  StateItem last_, matrix_, exponent_;
  std::shared_ptr<const StateLayout> layout_;
};

TEST_F(StateTest, ItemsLieOneAfterTheOther) {
  EXPECT_EQ(layout_->slot_size, 13);
  EXPECT_EQ(matrix_.offset, 3);
  EXPECT_EQ(exponent_.offset, 11);
  ASSERT_EQ(layout_->items.size(), 3u);
  EXPECT_EQ(layout_->items[1].name, "matrix");
  EXPECT_EQ(layout_->items[1].shape, (Shape{2, 2, 2}));
  EXPECT_EQ(layout_->items[1].width(), 8);
  const State state(layout_, 2);
  EXPECT_EQ(&state.layout(), layout_.get());
  const StateView view = state.view(exponent_);
  EXPECT_EQ(view.width, 2);
  EXPECT_EQ(view.slot<float>(1), state.slot(1).as<float>() + 11);
}

TEST_F(StateTest, ASlotBeginsEmptyAndIsClearedAlone) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kC128}) {
    State state(layout_, 2, dtype);
    const std::vector<double> empty = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -5, -5};
    EXPECT_EQ(elements(state.slot(0)), empty);
    EXPECT_EQ(elements(state.slot(1)), empty);
    std::memset(state.slot(0).data, 1, static_cast<size_t>(2 * state.slot_bytes()));
    state.clear(1);
    EXPECT_NE(elements(state.slot(0)), empty);
    EXPECT_EQ(elements(state.slot(1)), empty);
    state.copy_slot(1, 0);
    EXPECT_EQ(elements(state.slot(0)), empty);
  }
}

TEST_F(StateTest, ACopyIsAStateOfItsOwn) {
  State state(layout_, 1);
  state.view(last_).slot<float>(0)[2] = 7;
  const State copy = state;
  state.clear(0);
  EXPECT_EQ(element(copy.slot(0), 2), 7);
  EXPECT_EQ(element(state.slot(0), 2), 0);
  state.copy_from(copy);
  EXPECT_EQ(elements(state.slot(0)), elements(copy.slot(0)));
  const State none, copy_of_none = none;
  EXPECT_EQ(copy_of_none.slots(), 0);
  EXPECT_EQ(copy_of_none.slot_bytes(), 0);
}

}  // namespace
}  // namespace rookery
