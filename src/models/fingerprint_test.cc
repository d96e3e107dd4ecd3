#include "models/fingerprint.h"

#include <gtest/gtest.h>

#include <cmath>

#include "models/load.h"

namespace rookery {
namespace {

class FingerprintTest : public ::testing::Test {
 protected:
  Model make(uint64_t seed, int64_t layers = 2, int64_t width = 24) {
    return Model::initialised(make_config("4", layers, width, 50),
                              {.scheme = "random", .seed = seed}, pool_);
  }
  static std::vector<NamedTensor> tensors_of(const Model& model) {
    std::vector<NamedTensor> tensors;
    for (const Parameter& parameter : model.parameters()) {
      tensors.push_back({parameter.spec.name, parameter.value});
    }
    return tensors;
  }
  ThreadPool pool_{1};
};

TEST_F(FingerprintTest, IsTheSameInEveryNumberType) {
  const Model model = make(1);
  const std::string own = fingerprint(model);
  for (const MatrixType type : {MatrixType::kF32, MatrixType::kF16, MatrixType::kBF16}) {
    const Model other = model_from_tensors(tensors_of(model), type);
    const FingerprintMatch match = match_fingerprints(fingerprint(other), own);
    EXPECT_TRUE(match.same()) << match.differ << " of " << match.values;
    EXPECT_GT(match.values, 100);
    // A file may hold the vectors in 16 bits, too, and values below the smallest float16.
    const Model again = model_from_tensors(tensors_of(other), MatrixType::kF32);
    EXPECT_TRUE(match_fingerprints(fingerprint(again), own).same());
  }
}

TEST_F(FingerprintTest, TellsModelsApart) {
  const std::string own = fingerprint(make(1));
  const FingerprintMatch match = match_fingerprints(fingerprint(make(2)), own);
  EXPECT_TRUE(match.same_shapes);
  EXPECT_GT(match.differ, 50);
  EXPECT_FALSE(match_fingerprints(fingerprint(make(1, 3)), own).same_shapes);
  EXPECT_FALSE(match_fingerprints(fingerprint(make(1, 2, 32)), own).same_shapes);
}

// One step of training moves weights by about the learning rate.
TEST_F(FingerprintTest, TellsNeighboursInTrainingApart) {
  const Model before = make(1);
  Model after = make(1);
  for (const Parameter& parameter : after.parameters()) {
    float* values = parameter.value.as<float>();
    for (int64_t i = 0; i < parameter.value.count(); ++i) values[i] += 6e-4f;
  }
  EXPECT_FALSE(match_fingerprints(fingerprint(before), fingerprint(after)).same());
}

TEST_F(FingerprintTest, NotANumberEqualsItselfOnly) {
  Model model = make(1);
  const std::string own = fingerprint(model);
  model.parameters()[0].value.as<float>()[0] = NAN;
  EXPECT_TRUE(match_fingerprints(fingerprint(model), fingerprint(model)).same());
  EXPECT_FALSE(match_fingerprints(fingerprint(model), own).same());
}

TEST_F(FingerprintTest, OtherTextDiffers) {
  const std::string own = fingerprint(make(1));
  EXPECT_FALSE(match_fingerprints("", own).same());
  EXPECT_FALSE(match_fingerprints(own.substr(1), own).same());
  EXPECT_FALSE(match_fingerprints(own + "0000", own).same());
  std::string other = own;
  other.back() = 'g';
  EXPECT_FALSE(match_fingerprints(other, own).same());
}

}  // namespace
}  // namespace rookery
