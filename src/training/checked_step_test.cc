// A step whose operators are compared with their definitions: what it covers, and that a wrong
// operator is told and its inputs kept is tested where operators are (checking/).
#include "training/checked_step.h"

#include <gtest/gtest.h>

#include "checking/files_for_tests.h"
#include "core/error.h"

namespace rookery {
namespace {

TEST(CheckedStep, ChecksEveryOperatorOfAStep) {
  ThreadPool pool(1);
  for (const int64_t context : {1, 12}) {
    TemporaryFolder folder;
    const CheckedStep step = check_training_step(
        Model::initialised(make_config("4", 2, 16, 32), {.scheme = "random"}, pool),
        {.context = context, .folder = folder.path()}, pool);
    for (const char* op : {"embedding", "layer_norm", "token_shift", "wkv4", "wkv4.backward",
                           "dropout", "cross_entropy", "global_norm", "adamw"}) {
      EXPECT_TRUE(step.operators.contains(op)) << op;
    }
    EXPECT_GT(step.checked, static_cast<int64_t>(step.operators.size()));
    ASSERT_FALSE(step.backward_order.empty());
    EXPECT_EQ(step.backward_order.front(), "cross_entropy");
    EXPECT_EQ(step.backward_order.back(), "embedding");
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  }
}

}  // namespace
}  // namespace rookery
