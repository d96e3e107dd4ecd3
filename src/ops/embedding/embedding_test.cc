#include <algorithm>
#include <vector>

#include "checking/operator_test.h"
#include "ops/embedding/embedding_ref.h"

namespace rookery {
namespace {

class EmbeddingTest : public OperatorTest {
 protected:
  // Ids that leave some rows out and take others several times.
  const int32_t* make_ids(int64_t count, int64_t vocabulary) {
    Random numbers(3);
    ids_.clear();
    for (int64_t t = 0; t < count; ++t) {
      ids_.push_back(static_cast<int32_t>(numbers.below(vocabulary)));
    }
    return ids_.data();
  }
  EmbeddingForward make_forward(int64_t rows, int64_t vocabulary, int64_t width,
                                DType dtype = DType::kF32) {
    return {make_ids(rows, vocabulary), random({vocabulary, width}, 1, 0, dtype),
            make({rows, width})};
  }

  std::vector<int32_t> ids_;
};

TEST_F(EmbeddingTest, ForwardMatchesDefinition) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t rows : {0, 1, 33}) {
      for (const int64_t width : {1, 5, 16, 33}) {
        const EmbeddingForward args = make_forward(rows, 11, width, dtype);
        EXPECT_FORWARD(embedding, args);
        for (int64_t i = 0; i < args.y.count(); ++i) {  // to the last bit: nothing is computed
          EXPECT_EQ(element(args.y, i),
                    element(args.table, args.ids[i / width] * width + i % width));
        }
      }
    }
  }
}

TEST_F(EmbeddingTest, GradientsMatchComplexStep) {
  for (const bool accumulate : {false, true}) {
    for (const int64_t rows : {0, 1, 20}) {
      for (const int64_t width : {1, 3, 16, 35}) {
        const EmbeddingForward forward = make_forward(rows, 7, width);
        const EmbeddingBackward backward{forward, random({rows, width}),
                                         gradient({7, width}, accumulate)};
        EXPECT_BACKWARD(embedding, backward);
      }
    }
  }
}

TEST_F(EmbeddingTest, GradientDoesNotDependOnTheNumberOfThreads) {
  const EmbeddingForward forward = make_forward(500, 7, 67);
  const TensorView dy = random({500, 67});
  std::vector<double> expected;
  for (const int threads : {1, 2, 5}) {
    ThreadPool other(threads);
    ctx.pool = &other;
    const EmbeddingBackward backward{forward, dy, gradient({7, 67}, false)};
    cpu::embedding_backward(backward, ctx);
    if (threads == 1) expected = elements(backward.dtable);
    EXPECT_EQ(elements(backward.dtable), expected);
  }
  ctx.pool = &pool;
}

TEST_F(EmbeddingTest, RecordsAndChecksItself) {
  Tape tape;
  ctx.tape = &tape;
  ctx.checker = &checker;
  const Tensor table{random({7, 9}, 1, 0, DType::kBF16), ++ctx.last_id};
  const TensorView dtable = make({7, 9});
  tape.keep_gradient(table, dtable, false);
  const Tensor y = embedding(ctx, make_ids(20, 7), 20, table);
  EXPECT_EQ(y.shape, (Shape{20, 9}));
  const GradView dy = tape.gradient_out(y);
  std::fill_n(dy.as<float>(), dy.count(), 1.0f);
  tape.run_backward();
  EXPECT_EQ(checker.checked, 2);
  double sum = 0;
  for (const double x : elements(dtable)) sum += x;
  EXPECT_EQ(sum, 20 * 9);
}

TEST_F(EmbeddingTest, NamesTheWrongId) {
  const Tensor table{random({7, 4})};
  for (const int32_t wrong : {7, -1}) {
    const int32_t ids[] = {0, 6, wrong};
    try {
      embedding(ctx, ids, 3, table);
      ADD_FAILURE() << "accepted id " << wrong;
    } catch (const Error& error) {
      const std::string text = error.what();
      EXPECT_NE(text.find(fmt::format("id {} at position 2", wrong)), std::string::npos) << text;
      EXPECT_NE(text.find("vocabulary of 7"), std::string::npos) << text;
    }
  }
  EXPECT_THROW(embedding(ctx, nullptr, 0, Tensor{random({7})}), Error);
}

TEST_F(EmbeddingTest, PlanningReadsNothing) {
  Arena planning(MemoryKind::kPlan);
  ctx.arena = &planning;
  ctx.device = Device::kMeta;
  const Tensor table{planning.make({7, 4}, DType::kBF16)};
  EXPECT_EQ(embedding(ctx, nullptr, 3, table).shape, (Shape{3, 4}));
}

TEST_F(EmbeddingTest, GpuCopiesRowsOfAnyTypeAndWidth) {
  SKIP_WITHOUT_GPU();
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const int64_t width : {1, 37, 768, 4096}) {
      for (const bool all_aligned : {true, false}) {
        aligned = all_aligned;
        const EmbeddingForward args = make_forward(21, 70, width, dtype);
        EXPECT_CUDA_FORWARD(embedding, args);
        for (int64_t i = 0; i < args.y.count(); ++i) {
          ASSERT_EQ(element(args.y, i),
                    element(args.table, args.ids[i / width] * width + i % width));
        }
      }
    }
  }
}

TEST_F(EmbeddingTest, GpuAddsRowsOfFewAndOfManyIds) {
  SKIP_WITHOUT_GPU();
  for (const int64_t width : {1, 37, 64, 1100}) {
    for (const int64_t vocabulary : {int64_t{1}, int64_t{2}, int64_t{300}, 70000 / width}) {
      for (const int64_t rows : {0, 1, 31, 32, 33, 64, 700}) {
        aligned = rows % 2 == 0;
        const EmbeddingForward f = make_forward(rows, vocabulary, width);
        EXPECT_CUDA_BACKWARD_LIKE_CPU(
            embedding, (EmbeddingBackward{f, random({rows, width}),
                                          gradient({vocabulary, width}, rows == 64)}));
      }
    }
  }
}

TEST_F(EmbeddingTest, GpuAddsLongRunsOfOneId) {
  SKIP_WITHOUT_GPU();
  aligned = true;
  // Runs that begin and end at pieces' borders and between them; one of more pieces than a block
  // has threads.
  for (const int64_t width : {8, 72}) {
    for (const std::vector<int64_t>& runs :
         {std::vector<int64_t>{6000, 32, 64, 5}, {1, 31, 9000, 1, 1, 33}, {31, 33, 31, 33, 96}}) {
      EmbeddingForward f = make_forward(0, 8, width);
      for (size_t id = 0; id < runs.size(); ++id) {
        ids_.insert(ids_.end(), runs[id], static_cast<int32_t>(id + 1));
      }
      std::reverse(ids_.begin() + 10, ids_.end());  // not sorted, either
      const auto rows = static_cast<int64_t>(ids_.size());
      f.ids = ids_.data();
      f.y = make({rows, width});
      EXPECT_CUDA_BACKWARD_LIKE_CPU(
          embedding, (EmbeddingBackward{f, random({rows, width}), gradient({8, width}, false)}));
    }
  }
}

}  // namespace
}  // namespace rookery
