// Words are counted first, then only the different ones are merged. For each pair the table keeps
// its count and the words it may stand in, so that a merge touches these words only; a heap gives
// the most frequent pair, and its entries are corrected when they come up.
#include "tokenizers/bpe_training.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <queue>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "io/file.h"
#include "tokenizers/gpt2_split.h"
#include "tokenizers/unicode.h"

namespace rookery {
namespace {

constexpr std::string_view kEndOfDocument = "<|endoftext|>";
constexpr int64_t kFirstMerge = 257;
constexpr int64_t kLargestVocabulary = 1 << 20;
constexpr int64_t kLongestWord = 256;  // bytes
constexpr int64_t kWordOverhead = 64;  // bytes of memory for a word besides its own, about
// A pair that occurs once says nothing about other text.
constexpr int64_t kRarestPair = 2;

struct Hash : std::hash<std::string_view> {
  using is_transparent = void;
};
using WordCounts = std::unordered_map<std::string, int64_t, Hash, std::equal_to<>>;

class Counter {
 public:
  Counter(const BpeTrainingOptions& options, int64_t total) : options_(options), total_(total) {}

  void read(const std::filesystem::path& path) {
    std::error_code unknown;
    if (std::filesystem::file_size(path, unknown) == 0 && !unknown) return;
    const MappedFile file(path);
    std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    while (!text.empty()) {
      const size_t mark = find_mark(text);
      count_document(text.substr(0, mark));
      text.remove_prefix(std::min(text.size(), mark + kEndOfDocument.size() + 1));
    }
  }

  const WordCounts& counts() const { return counts_; }
  int64_t bytes() const { return bytes_; }
  int64_t dropped() const { return dropped_; }

 private:
  // Where the next line that is only the mark begins; the size if there is none. `text` begins a
  // line.
  static size_t find_mark(std::string_view text) {
    size_t at = text.find(kEndOfDocument);
    while (at != std::string_view::npos) {
      const size_t after = at + kEndOfDocument.size();
      if ((at == 0 || text[at - 1] == '\n') && (after == text.size() || text[after] == '\n')) break;
      at = text.find(kEndOfDocument, after);
    }
    return std::min(at, text.size());
  }

  void count_document(std::string_view text) {
    while (!text.empty()) {
      const int64_t valid = valid_utf8_prefix(text);
      const char *at = text.data(), *end = at + valid;
      while (at != end) {
        const char* next = gpt2_piece_end(at, end);
        count_word({at, static_cast<size_t>(next - at)});
        at = next;
      }
      text.remove_prefix(std::min<size_t>(text.size(), valid + 1));
    }
  }

  void count_word(std::string_view word) {
    bytes_ += static_cast<int64_t>(word.size());
    if (bytes_ - reported_ > (1 << 20)) {
      reported_ = bytes_;
      check(!options_.progress || options_.progress("reading", bytes_, total_)) ||
          fail("stopped while reading: there is no tokenizer yet");
    }
    if (static_cast<int64_t>(word.size()) > kLongestWord) return;
    const auto known = counts_.find(word);
    if (known != counts_.end()) {
      ++known->second;
      return;
    }
    memory_ += static_cast<int64_t>(word.size()) + kWordOverhead;
    if (memory_ > options_.word_memory) drop_rarest();
    counts_.emplace(word, 1);
  }

  // Until half the memory is free.
  void drop_rarest() {
    for (int64_t rarest = 1; memory_ > options_.word_memory / 2; ++rarest) {
      dropped_ += static_cast<int64_t>(std::erase_if(counts_, [&](const auto& entry) {
        if (entry.second > rarest) return false;
        memory_ -= static_cast<int64_t>(entry.first.size()) + kWordOverhead;
        return true;
      }));
    }
  }

  const BpeTrainingOptions& options_;
  int64_t total_;
  WordCounts counts_;
  int64_t memory_ = 0, bytes_ = 0, reported_ = 0, dropped_ = 0;
};

struct Pair {
  int32_t left = 0, right = 0;
  uint64_t key() const { return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right); }
};

class Merger {
 public:
  explicit Merger(const WordCounts& counts) {
    // In order, because the order of a hash table is nobody's promise.
    std::vector<const WordCounts::value_type*> words;
    words.reserve(counts.size());
    for (const auto& entry : counts) words.push_back(&entry);
    std::sort(words.begin(), words.end(),
              [](const auto* a, const auto* b) { return a->first < b->first; });
    for (const auto* word : words) {
      words_.push_back({static_cast<int64_t>(symbols_.size()),
                        static_cast<int32_t>(word->first.size()), word->second});
      for (const char byte : word->first) symbols_.push_back(1 + static_cast<uint8_t>(byte));
    }
    for (int byte = 0; byte < 256; ++byte) add_token(std::string(1, static_cast<char>(byte)));
    for (size_t word = 0; word < words_.size(); ++word) {
      const int32_t* symbols = &symbols_[words_[word].begin];
      for (int32_t i = 0; i + 1 < words_[word].length; ++i) {
        add({symbols[i], symbols[i + 1]}, words_[word].count, static_cast<int32_t>(word));
      }
    }
    for (const auto& [key, pair] : pairs_) queue_.push({pair.count, key});
    changed_.clear();
  }

  // Makes the most frequent pair a token; false if none occurs twice.
  bool merge_next() {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      const auto found = pairs_.find(top.key);
      if (found == pairs_.end()) continue;
      if (found->second.count != top.count) {
        if (found->second.count >= kRarestPair) queue_.push({found->second.count, top.key});
        continue;
      }
      if (top.count < kRarestPair) return false;
      const Pair pair{static_cast<int32_t>(top.key >> 32), static_cast<int32_t>(top.key)};
      // No token's bytes come about a second time: where they stand within the borders of other
      // tokens the same merges have made the same token of them.
      const std::string made = bytes_[pair.left - 1] + bytes_[pair.right - 1];
      std::vector<int32_t> words = std::move(found->second.words);
      pairs_.erase(found);
      merges_.push_back(pair);
      merge(pair, add_token(made), words);
      return true;
    }
    return false;
  }

  int64_t vocabulary() const { return 1 + static_cast<int64_t>(bytes_.size()); }
  const std::vector<Pair>& merges() const { return merges_; }
  const std::string& bytes_of(int32_t id) const { return bytes_[id - 1]; }

 private:
  struct Word {
    int64_t begin;   // in symbols_
    int32_t length;  // symbols
    int64_t count;   // how often it occurs in the text
  };
  struct Occurrences {
    int64_t count = 0;
    std::vector<int32_t> words;  // ascending when filled; the pair may have left some of them
  };
  struct Candidate {
    int64_t count;
    uint64_t key;
    // For the queue: the most frequent, of these the one of smaller ids.
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : key > other.key;
    }
  };

  int32_t add_token(const std::string& bytes) {
    bytes_.push_back(bytes);
    return static_cast<int32_t>(bytes_.size());  // ids begin with 1
  }

  void add(Pair pair, int64_t count, int32_t word) {
    Occurrences& occurrences = pairs_[pair.key()];
    occurrences.count += count;
    if (occurrences.words.empty() || occurrences.words.back() != word) {
      occurrences.words.push_back(word);
    }
    changed_.push_back(pair.key());
  }

  void remove(Pair pair, int64_t count) {
    const auto found = pairs_.find(pair.key());
    if (found == pairs_.end()) return;  // the pair that is being merged
    found->second.count -= count;
    if (found->second.count == 0) pairs_.erase(found);
  }

  void merge(Pair pair, int32_t made, const std::vector<int32_t>& words) {
    changed_.clear();
    for (const int32_t index : words) {
      Word& word = words_[index];
      int32_t* symbols = &symbols_[word.begin];
      int32_t length = 0;
      for (int32_t i = 0; i < word.length; ++i) {
        if (i + 1 == word.length || symbols[i] != pair.left || symbols[i + 1] != pair.right) {
          symbols[length++] = symbols[i];
          continue;
        }
        if (length > 0) {
          remove({symbols[length - 1], pair.left}, word.count);
          add({symbols[length - 1], made}, word.count, index);
        }
        if (i + 2 < word.length) {
          remove({pair.right, symbols[i + 2]}, word.count);
          add({made, symbols[i + 2]}, word.count, index);
        }
        symbols[length++] = made;
        ++i;
      }
      word.length = length;
    }
    // Counts that fell are corrected when they come up; those that rose, only here.
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (const uint64_t key : changed_) {
      const auto found = pairs_.find(key);
      if (found != pairs_.end()) queue_.push({found->second.count, key});
    }
  }

  std::vector<Word> words_;
  std::vector<int32_t> symbols_;
  std::vector<std::string> bytes_;  // of the tokens from 1 on
  std::unordered_map<uint64_t, Occurrences> pairs_;
  std::priority_queue<Candidate> queue_;
  std::vector<uint64_t> changed_;
  std::vector<Pair> merges_;
};

std::string in_byte_alphabet(std::string_view bytes) {
  std::string text;
  for (const char byte : bytes) append_utf8(byte_alphabet()[static_cast<uint8_t>(byte)], text);
  return text;
}

std::string write_json(const Merger& merger) {
  using Json = nlohmann::ordered_json;
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  // As one object at the end: in an ordered one each new key is searched for among all.
  std::vector<std::pair<std::string, Json>> tokens = {{std::string(kEndOfDocument), 0}};
  for (int32_t id = 1; id < merger.vocabulary(); ++id) {
    tokens.emplace_back(in_byte_alphabet(merger.bytes_of(id)), id);
  }
  Json vocabulary = Json::object();
  auto& members = vocabulary.get_ref<Json::object_t&>();
  members.reserve(tokens.size());
  for (auto& token : tokens) {
    static_cast<std::vector<std::pair<const std::string, Json>>&>(members).emplace_back(
        std::move(token.first), std::move(token.second));
  }
  Json merges = Json::array();
  for (const Pair& pair : merger.merges()) {
    merges.push_back(in_byte_alphabet(merger.bytes_of(pair.left)) + " " +
                     in_byte_alphabet(merger.bytes_of(pair.right)));
  }
  const Json result = {{"version", "1.0"},
                       {"truncation", nullptr},
                       {"padding", nullptr},
                       {"added_tokens", Json::array({{{"id", 0},
                                                      {"content", kEndOfDocument},
                                                      {"single_word", false},
                                                      {"lstrip", false},
                                                      {"rstrip", false},
                                                      {"normalized", false},
                                                      {"special", true}}})},
                       {"normalizer", nullptr},
                       {"pre_tokenizer", byte_level},
                       {"post_processor", byte_level},
                       {"decoder", byte_level},
                       {"model",
                        {{"type", "BPE"},
                         {"dropout", nullptr},
                         {"unk_token", nullptr},
                         {"continuing_subword_prefix", nullptr},
                         {"end_of_word_suffix", nullptr},
                         {"fuse_unk", false},
                         {"vocab", std::move(vocabulary)},
                         {"merges", std::move(merges)}}}};
  return result.dump(1) + "\n";
}

}  // namespace

TrainedBpe train_bpe(std::span<const std::filesystem::path> files,
                     const BpeTrainingOptions& options) {
  check(options.vocabulary >= kFirstMerge && options.vocabulary <= kLargestVocabulary) ||
      fail("a vocabulary of {}: expected {} (the bytes and the end of a document) to {}",
           options.vocabulary, kFirstMerge, kLargestVocabulary);
  check(options.word_memory >= (1 << 20)) ||
      fail("{} bytes for words: expected at least {}", options.word_memory, 1 << 20);
  check(!files.empty()) || fail("no text to learn from: name at least one file");
  int64_t total = 0;
  for (const std::filesystem::path& file : files) {
    std::error_code unknown;
    const auto size = std::filesystem::file_size(file, unknown);
    if (!unknown) total += static_cast<int64_t>(size);
  }
  Counter counter(options, total);
  for (const std::filesystem::path& file : files) counter.read(file);
  check(!options.progress || options.progress("reading", total, total)) ||
      fail("stopped while reading: there is no tokenizer yet");
  check(!counter.counts().empty()) || fail("the files hold no text: expected some words of UTF-8");

  Merger merger(counter.counts());
  while (merger.vocabulary() < options.vocabulary && merger.merge_next()) {
    check(!options.progress ||
          options.progress("merging", merger.vocabulary(), options.vocabulary)) ||
        fail("stopped while merging: there is no tokenizer yet");
  }
  return {write_json(merger), merger.vocabulary(), counter.bytes(),
          static_cast<int64_t>(counter.counts().size()), counter.dropped()};
}

}  // namespace rookery
