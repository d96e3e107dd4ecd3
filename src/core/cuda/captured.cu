// Recording a stream's work as a CUDA graph, and launching it.

#include "core/cuda/captured.h"

#include "core/cuda/launch.cuh"

namespace rookery::cuda {

struct Captured::Graph {
  cudaGraph_t recorded = nullptr;
  cudaGraphExec_t executable = nullptr;
  ~Graph() {
    if (executable != nullptr) cudaGraphExecDestroy(executable);
    if (recorded != nullptr) cudaGraphDestroy(recorded);
  }
};

Captured::Captured() = default;
Captured::~Captured() = default;
Captured::Captured(Captured&&) noexcept = default;
Captured& Captured::operator=(Captured&&) noexcept = default;

void Captured::reset() {
  graph_.reset();
  ran_ = false;
}

// Thread-local: other host threads may get memory and wait for their streams meanwhile.
void Captured::begin(const Stream& stream) {
  check_cuda(cudaStreamBeginCapture(stream.handle(), cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
}

void Captured::end(const Stream& stream) {
  auto graph = std::make_unique<Graph>();
  check_cuda(cudaStreamEndCapture(stream.handle(), &graph->recorded), "cudaStreamEndCapture");
  check_cuda(cudaGraphInstantiate(&graph->executable, graph->recorded, 0), "cudaGraphInstantiate");
  graph_ = std::move(graph);
}

void Captured::abandon(const Stream& stream) noexcept {
  cudaGraph_t half = nullptr;
  cudaStreamEndCapture(stream.handle(), &half);
  if (half != nullptr) cudaGraphDestroy(half);
  cudaGetLastError();
}

void Captured::launch(const Stream& stream) {
  stream.device().make_current();
  check_cuda(cudaGraphLaunch(graph_->executable, stream.handle()), "cudaGraphLaunch");
}

}  // namespace rookery::cuda
