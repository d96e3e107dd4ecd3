#include "io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>
#include <utility>

namespace rookery {
namespace {

namespace fs = std::filesystem;

// What the system says about `number`, for the end of a message.
std::string reason(int number) { return std::generic_category().message(number); }

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

// Opens for reading, or throws. `flags` are added.
int open_to_read(const fs::path& path, int flags) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  if (descriptor < 0 && errno == ENOENT) {
    fail("expected a file at '{}', found nothing there: check the path", path.string());
  }
  check(descriptor >= 0) || fail("cannot read '{}' ({}): check the path and its permissions",
                                 path.string(), reason(errno));
  return descriptor;
}

}  // namespace

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  // O_NONBLOCK: opening a pipe without a writer would wait for ever; it is refused below.
  const Descriptor file(open_to_read(path, O_NONBLOCK));
  struct stat status;
  check(::fstat(file.number(), &status) == 0) ||
      fail("cannot read '{}' ({})", path.string(), reason(errno));
  check(!S_ISDIR(status.st_mode)) ||
      fail("expected a file, '{}' is a folder: name the file in it", path.string());
  check(S_ISREG(status.st_mode)) ||
      fail("expected a regular file, '{}' is a device or a pipe: save it to a file first",
           path.string());
  check(status.st_size > 0) ||
      fail("the file '{}' is empty: copy or download it again", path.string());
  const size_t size = static_cast<size_t>(status.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number(), 0);
  check(data != MAP_FAILED) ||
      fail("cannot map the {} bytes of '{}' ({}): free memory or address space", size,
           path.string(), reason(errno));
  bytes_ = {static_cast<const std::byte*>(data), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::release() const {
  // The mapping is private and never written: its pages are those of the file.
  if (!bytes_.empty()) {
    ::madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

AtomicFile::AtomicFile(const fs::path& path) : path_(path) {
  std::error_code error;
  if (fs::is_symlink(path_, error)) {
    path_ = fs::canonical(path_, error);
    check(!error) || fail("cannot write '{}': the link leads nowhere; remove it or make its target",
                          path.string());
  }
  const fs::file_status status = fs::status(path_, error);
  check(status.type() != fs::file_type::directory) ||
      fail("expected a file to write, '{}' is a folder: add a file name", path_.string());
  // rename() would put a file in the place of a device such as the null device.
  check(!fs::exists(status) || fs::is_regular_file(status)) ||
      fail("expected a regular file to write, '{}' is a device or a pipe: choose another name",
           path_.string());
  check(!fs::exists(status) || ::access(path_.c_str(), W_OK) == 0) ||
      fail("cannot write '{}' ({}): change its permissions or choose another name", path_.string(),
           reason(errno));
  const fs::path folder = path_.has_parent_path() ? path_.parent_path() : fs::path(".");
  check(path_.has_filename()) ||
      fail("expected a file to write, '{}' names none: add a file name", path.string());
  check(fs::is_directory(folder, error)) ||
      fail("cannot write '{}': there is no folder '{}'; create it first", path_.string(),
           folder.string());

  // The mode is what the user's umask makes of 0666, which mkstemp would not give.
  static std::atomic<int64_t> counter{0};
  do {
    aside_ = folder / fmt::format(".rookery-{}-{}.partial", ::getpid(), ++counter);
    descriptor_ = ::open(aside_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  } while (descriptor_ < 0 && errno == EEXIST);
  check(descriptor_ >= 0) ||
      fail("cannot write into the folder '{}' ({}): check its permissions and free space",
           folder.string(), reason(errno));
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!aside_.empty()) ::unlink(aside_.c_str());
}

void AtomicFile::write(const void* data, int64_t bytes) {
  assert(descriptor_ >= 0 && bytes >= 0);
  constexpr int64_t kMostAtOnce = int64_t{1} << 30;  // Linux takes no more than 2 GiB in one call
  const char* next = static_cast<const char*>(data);
  for (int64_t done = 0; done < bytes;) {
    const ssize_t written = ::write(descriptor_, next + done, std::min(bytes - done, kMostAtOnce));
    if (written < 0 && errno == EINTR) continue;
    check(written > 0) ||
        fail(
            "writing '{}': expected to write {} bytes after the first {}, wrote {} ({}): free "
            "space on the disk; the old file, if any, is untouched",
            path_.string(), bytes, size_ - done, done, reason(written < 0 ? errno : ENOSPC));
    done += written;
    size_ += written;
  }
}

void AtomicFile::commit() {
  assert(descriptor_ >= 0);
  check(::fsync(descriptor_) == 0) ||
      fail("writing '{}': the disk did not take all {} bytes ({}): free space on the disk",
           path_.string(), size_, reason(errno));
  const int closed = ::close(std::exchange(descriptor_, -1));
  check(closed == 0) ||
      fail("writing '{}': the disk did not take all {} bytes ({}): free space on the disk",
           path_.string(), size_, reason(errno));
  check(::rename(aside_.c_str(), path_.c_str()) == 0) ||
      fail("cannot put the finished file in the place of '{}' ({})", path_.string(), reason(errno));
  aside_.clear();
  // The name is on the disk only when the folder is. Some file systems cannot sync a folder
  // (EINVAL); the file is complete in any case.
  const fs::path folder = path_.has_parent_path() ? path_.parent_path() : fs::path(".");
  const Descriptor entry(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (entry.number() < 0) return;  // a folder that may be written but not read
  check(::fsync(entry.number()) == 0 || errno == EINVAL || errno == ENOTSUP) ||
      fail("wrote '{}', but its folder could not be brought to the disk ({}): check the disk",
           path_.string(), reason(errno));
}

void require_new_file(const fs::path& path, bool replace) {
  std::error_code absent;
  check(replace || !fs::exists(path, absent)) ||
      fail("'{}' exists already: choose another name, or replace it with --force", path.string());
}

std::string read_text_file(const fs::path& path) {
  const Descriptor file(open_to_read(path, 0));
  std::string text;
  char block[1 << 16];
  for (;;) {
    const ssize_t got = ::read(file.number(), block, sizeof(block));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EISDIR) {
      fail("expected a text file, '{}' is a folder: name the file in it", path.string());
    }
    check(got >= 0) || fail("cannot read '{}' after {} bytes ({}): check the disk", path.string(),
                            text.size(), reason(errno));
    if (got == 0) return text;
    text.append(block, static_cast<size_t>(got));
  }
}

}  // namespace rookery
