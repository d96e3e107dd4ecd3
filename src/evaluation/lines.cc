#include "evaluation/lines.h"

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "core/error.h"

namespace rookery {
namespace {

constexpr int64_t kBlock = int64_t{1} << 16;

std::string reason(int number) { return std::generic_category().message(number); }

}  // namespace

BlockReader::BlockReader(const std::filesystem::path& path) : path_(path) {
  std::error_code error;
  check(!std::filesystem::is_directory(path, error),
        "expected a file, '{}' is a folder: name the file in it", path.string());
  file_.reset(std::fopen(path.c_str(), "rbe"));
  check(file_ != nullptr, "cannot read '{}' ({}): check the path and its permissions",
        path.string(), reason(errno));
}

bool BlockReader::append(std::string& text, int64_t bytes) {
  const size_t before = text.size();
  text.resize(before + static_cast<size_t>(bytes));
  errno = 0;
  const size_t got = std::fread(text.data() + before, 1, static_cast<size_t>(bytes), file_.get());
  text.resize(before + got);
  check(std::ferror(file_.get()) == 0, "cannot read '{}' after {} bytes ({}): check the disk",
        path_.string(), offset_, reason(errno));
  offset_ += static_cast<int64_t>(got);
  return got > 0;
}

LineReader::LineReader(const std::filesystem::path& path, int64_t most_bytes)
    : reader_(path), most_bytes_(most_bytes) {}

std::string LineReader::where() const {
  return fmt::format("{}:{}", reader_.path().string(), number_);
}

bool LineReader::next(std::string_view& line) {
  size_t end = held_.find('\n', search_);
  while (end == std::string::npos && !ended_) {
    held_.erase(0, begin_);
    begin_ = 0;
    search_ = held_.size();
    check(static_cast<int64_t>(held_.size()) <= most_bytes_,
          "{}:{}: the line has more than {} bytes: expected one object per line, or for a text "
          "another form of file",
          reader_.path().string(), number_ + 1, most_bytes_);
    ended_ = !reader_.append(held_, kBlock);
    end = held_.find('\n', search_);
  }
  if (end == std::string::npos && begin_ == held_.size()) return false;
  ++number_;
  const size_t after = end == std::string::npos ? held_.size() : end + 1;
  line = std::string_view(held_).substr(begin_, std::min(end, held_.size()) - begin_);
  if (line.ends_with('\r')) line.remove_suffix(1);
  check(static_cast<int64_t>(line.size()) <= most_bytes_,
        "{}: the line has more than {} bytes: expected one object per line", where(), most_bytes_);
  offset_ += static_cast<int64_t>(after - begin_);
  begin_ = search_ = after;
  return true;
}

}  // namespace rookery
