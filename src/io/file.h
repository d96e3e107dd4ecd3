// Files: a read-only mapping, a file that appears only when it is complete, and whole texts.
// Assumes POSIX and a little-endian machine (all formats read here are little-endian).
#pragma once

#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>

#include "core/error.h"

namespace rookery {

static_assert(std::endian::native == std::endian::little, "file formats are read by copying bytes");

// The T whose bytes start at `offset`; no alignment is needed. The caller has checked the bounds.
template <class T>
T load_at(std::span<const std::byte> bytes, int64_t offset) {
  assert(offset >= 0 && static_cast<uint64_t>(offset) + sizeof(T) <= bytes.size());
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));
  return value;
}

// A whole file in the address space, read-only. The addresses stay the same when the object is
// moved. The file must not be shortened in place while it is mapped (the system would end the
// process at the next access); replacing it by rename, as AtomicFile does, is safe.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws Error if there is no such file, or it is unreadable, not a regular file, or empty.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return bytes_; }
  // Gives back the memory of what was read so far. Nothing changes: what is read again comes from
  // the file again. Without this a file that is read once counts as memory of the process.
  void release() const;
  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

// Writes beside the target under a name of its own, and takes the target's place in commit().
// Before that the target is untouched, whatever happens; without commit() the destructor removes
// what was written.
class AtomicFile {
 public:
  // Throws Error if the folder is missing or not writable, or if the target exists and is not a
  // regular file that may be written. A target that is a symbolic link stays one: the file it names
  // is replaced.
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Appends. Throws Error (full disk, quota, limit) with the bytes that were written.
  void write(const void* data, int64_t bytes);
  // To the disk, then into place, once; nothing can be written afterwards. Throws Error if the
  // system refuses; the target is then the old one.
  void commit();
  // Bytes written so far.
  int64_t size() const { return size_; }

 private:
  std::filesystem::path path_, aside_;
  int descriptor_ = -1;
  int64_t size_ = 0;
};

// Throws Error if there is something at this path, unless it may be replaced.
void require_new_file(const std::filesystem::path& path, bool replace);

// The bytes of a text file, to its end; pipes are read, too. Throws Error if it cannot be read.
std::string read_text_file(const std::filesystem::path& path);

}  // namespace rookery
