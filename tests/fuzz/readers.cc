#include "readers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "formats/tensor_source.h"
#include "models/detect.h"
#include "models/model.h"
#include "training/checkpoint.h"

namespace rookery {
namespace {

// A file that is in memory only, but has a name: readers take paths.
class InMemoryFile {
 public:
  explicit InMemoryFile(std::span<const std::byte> bytes)
      : descriptor_(::memfd_create("input", MFD_CLOEXEC)) {
    const bool written = descriptor_ >= 0 && ::write(descriptor_, bytes.data(), bytes.size()) ==
                                                 static_cast<ssize_t>(bytes.size());
    if (!written) std::abort();  // says nothing about the reader: must not pass as a refusal
  }
  ~InMemoryFile() { ::close(descriptor_); }
  InMemoryFile(const InMemoryFile&) = delete;
  InMemoryFile& operator=(const InMemoryFile&) = delete;
  std::filesystem::path path() const { return fmt::format("/proc/self/fd/{}", descriptor_); }

 private:
  int descriptor_;
};

// Any checkpoint: the tensors, and the model they may be.
void read_checkpoint(std::span<const std::byte> bytes) {
  const InMemoryFile file(bytes);
  const TensorSource source = open_checkpoint(file.path());
  uint32_t sum = 0;
  for (const StoredTensor& tensor : source.tensors) {
    const auto* data = static_cast<const unsigned char*>(tensor.data);
    for (int64_t i = 0; i < tensor.bytes(); ++i) sum += data[i];
  }
  volatile uint32_t used = sum;
  (void)used;
  Model::from_tensors(model_tensors(source), MatrixType::kF32);
}

constexpr Reader kReaders[] = {
    {"pth", read_checkpoint},
    {"safetensors", read_checkpoint},
    {"ggmf", read_checkpoint},
};

}  // namespace

std::span<const Reader> readers() { return kReaders; }

}  // namespace rookery
