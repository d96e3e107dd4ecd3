#include "tokenizers/load.h"

#include "core/file.h"
#include "tokenizers/bytes.h"

namespace rookery {

std::unique_ptr<Tokenizer> parse_tokenizer(std::string_view definition, std::string_view source) {
  if (definition == ByteTokenizer::kName) return std::make_unique<ByteTokenizer>();
  fail("'{}' is no tokenizer: expected the word bytes", source);
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  return parse_tokenizer(read_text_file(path), path.string());
}

}  // namespace rookery
