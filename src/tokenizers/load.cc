// Which tokenizer a text is follows from its first bytes, whatever the file is called.
#include "tokenizers/load.h"

#include "io/file.h"
#include "tokenizers/bpe.h"
#include "tokenizers/bytes.h"
#include "tokenizers/world.h"

namespace rookery {
namespace {

constexpr int64_t kLargestFile = 256'000'000;

class PaddedTokenizer final : public Tokenizer {
 public:
  PaddedTokenizer(std::unique_ptr<Tokenizer> tokenizer, int64_t vocabulary)
      : tokenizer_(std::move(tokenizer)), vocabulary_(vocabulary) {}

  std::string_view name() const override { return tokenizer_->name(); }
  int64_t vocab_size() const override { return vocabulary_; }
  int64_t padding_begin() const override { return tokenizer_->vocab_size(); }
  void encode_to(std::string_view text, std::vector<int32_t>& ids) const override {
    tokenizer_->encode_to(text, ids);
  }
  std::string_view bytes_of(int32_t id) const override {
    const bool padding = id >= tokenizer_->vocab_size() && id < vocabulary_;
    return padding ? std::string_view() : tokenizer_->bytes_of(id);
  }
  std::string definition() const override { return tokenizer_->definition(); }

 private:
  std::unique_ptr<Tokenizer> tokenizer_;
  int64_t vocabulary_;
};

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = std::min(text.find_first_not_of(kSpace), text.size());
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

}  // namespace

std::unique_ptr<Tokenizer> parse_tokenizer(std::string_view definition, std::string_view source) {
  check(static_cast<int64_t>(definition.size()) <= kLargestFile) ||
      fail("'{}' has {} bytes: expected a tokenizer of at most {}", source, definition.size(),
           kLargestFile);
  const std::string_view text = trimmed(definition);
  if (text == ByteTokenizer::kName) return std::make_unique<ByteTokenizer>();
  const char first = text.empty() ? '\0' : text.front();
  if (first >= '0' && first <= '9') {
    return std::make_unique<WorldTokenizer>(std::string(text), source);
  }
  if (first == '{') {
    // World's JSON twin has ids as its keys, and so an id as its first.
    const size_t key = text.find_first_not_of(" \t\r\n", 1);
    const bool is_world =
        key < text.size() - 1 && text[key] == '"' && text[key + 1] >= '0' && text[key + 1] <= '9';
    if (is_world) return std::make_unique<WorldTokenizer>(std::string(text), source);
    return std::make_unique<BpeTokenizer>(std::string(text), source);
  }
  fail(
      "'{}' is no tokenizer: expected the word bytes, an RWKV World vocabulary (lines such as 258 "
      "'\\t\\n' 2) or a tokenizer.json",
      source);
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_tokenizer({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()},
                         path.string());
}

std::unique_ptr<Tokenizer> with_padding_ids(std::unique_ptr<Tokenizer> tokenizer,
                                            int64_t vocabulary) {
  if (tokenizer->vocab_size() >= vocabulary) return tokenizer;
  return std::make_unique<PaddedTokenizer>(std::move(tokenizer), vocabulary);
}

}  // namespace rookery
