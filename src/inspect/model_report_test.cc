// Counts of a small model by hand, and of the paper's Table 2.
#include "inspect/model_report.h"

#include <gtest/gtest.h>

#include "checking/files_for_tests.h"
#include "checkpoints/fresh_model.h"

namespace rookery {
namespace {

TEST(ModelReport, CountsByHand) {
  constexpr int64_t kLayers = 2, kWidth = 8, kVocabulary = 40;
  const ModelReport report =
      report_of(Model::planned(make_config("4", kLayers, kWidth, kVocabulary)));
  EXPECT_EQ(report.config.width, kWidth);
  // RWKV-4: five matrices of C x C and two of C x 4C in a block; eleven vectors of C, and those of
  // the first and the last layer norm.
  const int64_t square = kWidth * kWidth, embedding = kVocabulary * kWidth;
  const int64_t matrices = kLayers * (5 + 8) * square + 2 * embedding;
  const int64_t vectors = kLayers * (4 + 2 + 3 + 2) * kWidth + 4 * kWidth;
  EXPECT_EQ(report.parameters, matrices + vectors);
  int64_t in_parts = 0, in_groups = 0, decaying = 0;
  for (const auto& [part, count] : report.parameters_by_part) in_parts += count;
  for (const ModelReport::Group& group : report.optimizer_groups) {
    in_groups += group.parameters;
    if (group.weight_decay) decaying += group.parameters;
  }
  EXPECT_EQ(in_parts, report.parameters);
  EXPECT_EQ(in_groups, report.parameters);
  EXPECT_EQ(decaying, matrices);
  // With the layer norm behind it.
  EXPECT_EQ(report.parameters_by_part.front(),
            (std::pair<std::string, int64_t>("embedding", embedding + 2 * kWidth)));
  ASSERT_EQ(report.bytes.size(), 3u);
  EXPECT_EQ(report.bytes[0], (std::pair(DType::kF32, 4 * report.parameters)));
  EXPECT_EQ(report.bytes[1], (std::pair(DType::kF16, 2 * matrices + 4 * vectors)));
  EXPECT_EQ(report.bytes[2], (std::pair(DType::kBF16, 2 * matrices + 4 * vectors)));
  EXPECT_EQ(report.state_bytes, 4 * kLayers * 5 * kWidth);
  EXPECT_EQ(report.flops_per_token, 2 * (matrices - embedding));
  EXPECT_EQ(report.flops_per_token_training, 6 * (matrices - embedding));
}

TEST(ModelReport, StoredBytesByType) {
  ThreadPool pool(1);
  TemporaryFolder folder;
  const auto path = folder.path() / "model.safetensors";
  const Model model = write_fresh_model(path, make_config("4", 1, 8, 40), {}, DType::kBF16, pool);
  const ModelReport report = report_of(model);
  const auto stored = stored_bytes(model, open_checkpoint(path));
  EXPECT_EQ(stored.size(), 2u);
  EXPECT_EQ(stored.at("f32") + stored.at("bf16"), report.bytes[2].second);
  EXPECT_EQ(2 * stored.at("bf16") + stored.at("f32"), report.bytes[0].second);
  EXPECT_THROW(stored_bytes(Model::planned(make_config("4", 2, 8, 40)), open_checkpoint(path)),
               Error);
}

}  // namespace
}  // namespace rookery
