#include "models/load.h"

#include <gtest/gtest.h>

#include <cstring>

#include "checking/checked_run.h"

namespace rookery {
namespace {

constexpr int64_t kWidth = 24, kVocabulary = 19;

class LoadTest : public ::testing::Test {
 protected:
  LoadTest() {
    for (const Parameter& p : model_.parameters()) tensors_.push_back(stored_tensor(p));
  }
  static void expect_same_numbers(const Model& a, const Model& b) {
    for (size_t i = 0; i < a.parameters().size(); ++i) {
      const Parameter &x = a.parameters()[i], &y = b.parameters()[i];
      ASSERT_EQ(x.value.dtype, y.value.dtype) << x.spec.name;
      EXPECT_EQ(std::memcmp(x.value.data, y.value.data, x.value.bytes()), 0) << x.spec.name;
    }
  }
  template <class Change>
  void expect_refused(Change change, const char* words) const {
    auto tensors = tensors_;
    change(tensors);
    try {
      model_from_tensors(tensors, MatrixType::kAsStored);
      ADD_FAILURE() << "loaded, but should say: " << words;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
    }
  }

  ThreadPool pool_{2};
  const Model model_ =
      Model::initialised(make_config("4", 3, kWidth, kVocabulary), {.scheme = "random"}, pool_);
  std::vector<NamedTensor> tensors_;
};

TEST_F(LoadTest, GivesTheSameModelAgain) {
  const Model again = model_from_tensors(tensors_, MatrixType::kAsStored);
  EXPECT_EQ(again.config(), model_.config());
  expect_same_numbers(again, model_);
}

TEST_F(LoadTest, OnlyVectorsStayFloat32) {
  const Model low = model_from_tensors(tensors_, MatrixType::kBF16);
  for (const Parameter& p : low.parameters()) {
    EXPECT_EQ(p.value.dtype, p.spec.role == Role::kVector ? DType::kF32 : DType::kBF16)
        << p.spec.name;
  }
}

// Tensors that are made one at a time, in another type or in that of the model.
TEST_F(LoadTest, MakesTensorsOneAtATime) {
  const Model low = model_from_tensors(tensors_, MatrixType::kBF16);
  for (const MatrixType type : {MatrixType::kF32, MatrixType::kBF16}) {
    int calls = 0;
    std::vector<NamedTensor> made;
    for (const NamedTensor& tensor : tensors_) {
      made.push_back({tensor.name,
                      {nullptr, tensor.view.dtype, tensor.view.shape},
                      [&calls, from = tensor.view](void* to) {
                        ++calls;
                        std::memcpy(to, from.data, static_cast<size_t>(from.bytes()));
                      }});
    }
    const Model loaded = model_from_tensors(made, type, {.layer_norm = 1e-3f});
    EXPECT_EQ(calls, static_cast<int>(tensors_.size()));
    EXPECT_EQ(loaded.config().epsilons, (NormEpsilons{.layer_norm = 1e-3f}));
    expect_same_numbers(loaded, type == MatrixType::kF32 ? model_ : low);
  }
}

TEST_F(LoadTest, NamesWhatDoesNotFit) {
  using Tensors = std::vector<NamedTensor>;
  expect_refused([](Tensors& t) { t.erase(t.begin() + 12); }, "the checkpoint lacks");
  expect_refused([](Tensors& t) { t[5].view.shape = {kWidth - 1}; }, "needs [24]");
  expect_refused(
      [](Tensors& t) {
        t.push_back({"blocks.0.att.surprise", t[5].view});
      },
      "holds something else");
  expect_refused([](Tensors& t) { t.push_back(t[5]); }, "occurs twice");
  for (const char* far : {"999999999", "9223372036854775807"}) {
    expect_refused(
        [&](Tensors& t) {
          t.push_back({fmt::format("blocks.{}.att.key.weight", far), t[5].view});
        },
        "the blocks between are missing");
  }
}

// The low-rank matrices of later generations, and groups of them.
TEST_F(LoadTest, TransposedParametersComeAndGo) {
  Parameter matrix, group;
  ParameterTable table;
  const auto row = table.rows("", "part");
  row("w1", matrix, {2, 3}, Role::kMatrix, {}, constant(0), Stored::kTransposed);
  row("w2", group, {2, 3, 2}, Role::kMatrix, {}, constant(0), Stored::kTransposed);
  EXPECT_EQ(matrix.spec.stored_shape(), (Shape{3, 2}));
  EXPECT_EQ(group.spec.stored_shape(), (Shape{2, 2, 3}));

  const std::vector<float> stored = {1, 2, 3, 4, 5, 6}, in_memory = {1, 3, 5, 2, 4, 6};
  std::vector<float> numbers(6);
  matrix.value.data = numbers.data();
  read_parameter(matrix, {"w1", {const_cast<float*>(stored.data()), DType::kF32, {3, 2}}}, nullptr);
  EXPECT_EQ(numbers, in_memory);
  std::vector<float> back(6);
  const NamedTensor tensor = stored_tensor(matrix);
  EXPECT_EQ(tensor.view.shape, (Shape{3, 2}));
  ASSERT_TRUE(tensor.make);
  tensor.make(back.data());
  EXPECT_EQ(back, stored);

  // From another type, made on demand.
  const std::vector<BFloat16> low = {to_bfloat16(1), to_bfloat16(2),  to_bfloat16(3),
                                     to_bfloat16(4), to_bfloat16(5),  to_bfloat16(6),
                                     to_bfloat16(7), to_bfloat16(8),  to_bfloat16(9),
                                     to_bfloat16(0), to_bfloat16(-1), to_bfloat16(-2)};
  std::vector<float> numbers_of_group(12);
  std::vector<BFloat16> scratch(12);
  group.value.data = numbers_of_group.data();
  read_parameter(group,
                 {"w2",
                  {nullptr, DType::kBF16, {2, 2, 3}},
                  [&](void* to) { std::memcpy(to, low.data(), 24); }},
                 scratch.data());
  EXPECT_EQ(numbers_of_group, (std::vector<float>{1, 4, 2, 5, 3, 6, 7, 0, 8, -1, 9, -2}));
}

}  // namespace
}  // namespace rookery
