#include "formats/pth.h"

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <unordered_map>
#include <utility>

namespace rookery {
namespace {

using Bytes = std::span<const std::byte>;

std::string_view text_of(Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// -------------------------------------------------------------------------------------------------
// The archive. Sizes and offsets come from the central directory: the local headers of these files
// hold zeros.

constexpr uint32_t kEndRecord = 0x06054b50, kEndRecord64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr uint32_t kDirectoryEntry = 0x02014b50, kLocalHeader = 0x04034b50;
constexpr int64_t kEndRecordBytes = 22, kEndRecord64Bytes = 56, kLocator64Bytes = 20;
constexpr int64_t kDirectoryEntryBytes = 46, kLocalHeaderBytes = 30;
constexpr uint32_t kIn64 =
    0xffffffff;  // a size or an offset that stands in the ZIP64 fields instead

class Archive {
 public:
  // Throws Error unless every member is stored, unencrypted and within the file.
  Archive(Bytes file, std::string path) : file_(file), path_(std::move(path)) {
    const Directory directory = find_directory();
    int64_t at = directory.offset;
    for (uint64_t i = 0; i < directory.entries; ++i) {
      at = read_entry(at, directory.offset + directory.size);
    }
  }

  // By the name within the archive.
  const std::map<std::string_view, Bytes>& members() const { return members_; }

 private:
  struct Directory {
    int64_t offset = 0, size = 0;
    uint64_t entries = 0;
  };

  // Throws unless [offset, offset + length) lies within the first `end` bytes.
  void require(uint64_t offset, uint64_t length, int64_t end) const {
    const uint64_t limit = static_cast<uint64_t>(end);
    check(offset <= limit && length <= limit - offset) ||
        fail(
            "'{}': expected {} bytes at offset {}, the part that could hold them ends at {}: the "
            "archive is cut short or damaged, copy or download it again",
            path_, length, offset, limit);
  }

  template <class T>
  T load(int64_t offset) const {
    require(static_cast<uint64_t>(offset), sizeof(T), static_cast<int64_t>(file_.size()));
    return load_at<T>(file_, offset);
  }

  Directory find_directory() const {
    const int64_t size = static_cast<int64_t>(file_.size());
    // The end record is the last thing in the file but for a comment of at most 65535 bytes.
    const int64_t first = std::max<int64_t>(0, size - kEndRecordBytes - 65535);
    int64_t end = size - kEndRecordBytes;
    while (end >= first && (load<uint32_t>(end) != kEndRecord ||
                            load<uint16_t>(end + 20) != size - end - kEndRecordBytes)) {
      --end;
    }
    check(end >= first) || fail(
                               "'{}' has no end of archive: expected a .pth of PyTorch 1.6 or "
                               "newer; the file is cut short or damaged, copy or download it again",
                               path_);
    const int64_t locator = end - kLocator64Bytes;
    uint64_t entries = load<uint16_t>(end + 10), bytes = load<uint32_t>(end + 12),
             offset = load<uint32_t>(end + 16);
    if (locator >= 0 && load<uint32_t>(locator) == kLocator64) {
      const uint64_t record = load<uint64_t>(locator + 8);
      require(record, kEndRecord64Bytes, locator);
      const int64_t at = static_cast<int64_t>(record);
      check(load<uint32_t>(at) == kEndRecord64) ||
          fail("'{}' has a damaged ZIP64 record: copy or download it again", path_);
      entries = load<uint64_t>(at + 32);
      bytes = load<uint64_t>(at + 40);
      offset = load<uint64_t>(at + 48);
    }
    require(offset, bytes, end);
    check(entries <= bytes / kDirectoryEntryBytes) ||
        fail(
            "'{}' claims {} members in a directory of {} bytes: the archive is damaged, copy or "
            "download it again",
            path_, entries, bytes);
    return {static_cast<int64_t>(offset), static_cast<int64_t>(bytes), entries};
  }

  // Reads the entry at `at` of the directory that ends at `directory_end`. Returns where the next
  // one starts.
  int64_t read_entry(int64_t at, int64_t directory_end) {
    require(static_cast<uint64_t>(at), kDirectoryEntryBytes, directory_end);
    check(load<uint32_t>(at) == kDirectoryEntry) ||
        fail("'{}' has a damaged directory at offset {}: copy or download it again", path_, at);
    const int flags = load<uint16_t>(at + 8), method = load<uint16_t>(at + 10);
    uint64_t stored = load<uint32_t>(at + 20), size = load<uint32_t>(at + 24),
             header = load<uint32_t>(at + 42);
    const int64_t name_bytes = load<uint16_t>(at + 28), extra_bytes = load<uint16_t>(at + 30);
    const int64_t comment_bytes = load<uint16_t>(at + 32);
    const int64_t next = at + kDirectoryEntryBytes + name_bytes + extra_bytes + comment_bytes;
    require(static_cast<uint64_t>(at), static_cast<uint64_t>(next - at), directory_end);
    const std::string_view name = text_of(file_.subspan(at + kDirectoryEntryBytes, name_bytes));
    read_entry64(at + kDirectoryEntryBytes + name_bytes, extra_bytes, {&size, &stored, &header});
    check(method == 0 && stored == size && (flags & 1) == 0) ||
        fail(
            "member {} of '{}' is compressed or encrypted: expected a file as torch.save writes "
            "it; save it again",
            name, path_);

    // The name and the extra field may have other lengths here than in the directory.
    require(header, kLocalHeaderBytes, directory_end);
    const int64_t local = static_cast<int64_t>(header);
    check(load<uint32_t>(local) == kLocalHeader) ||
        fail("member {} of '{}' has a damaged header: copy or download it again", name, path_);
    const int64_t data =
        local + kLocalHeaderBytes + load<uint16_t>(local + 26) + load<uint16_t>(local + 28);
    require(static_cast<uint64_t>(data), size, directory_end);
    check(members_.emplace(name, file_.subspan(data, size)).second) ||
        fail("'{}' has two members called {}: the archive is damaged, save the checkpoint again",
             path_, name);
    return next;
  }

  // Replaces those of size, stored size and header offset that are marked as being in the extra
  // field's ZIP64 part, which holds just these, in this order.
  void read_entry64(int64_t extra, int64_t extra_bytes, std::array<uint64_t*, 3> fields) const {
    if (std::none_of(fields.begin(), fields.end(),
                     [](const uint64_t* field) { return *field == kIn64; })) {
      return;
    }
    const int64_t end = extra + extra_bytes;
    for (int64_t part = extra; part + 4 <= end;) {
      const int64_t part_end = part + 4 + load<uint16_t>(part + 2);
      if (load<uint16_t>(part) == 1 && part_end <= end) {
        int64_t at = part + 4;
        for (uint64_t* field : fields) {
          if (*field != kIn64) continue;
          require(static_cast<uint64_t>(at), 8, part_end);
          *field = load<uint64_t>(at);
          at += 8;
        }
        return;
      }
      part = part_end;
    }
    fail(
        "'{}' has a member without its ZIP64 sizes: the archive is damaged, copy or download it "
        "again",
        path_);
  }

  Bytes file_;
  std::string path_;
  std::map<std::string_view, Bytes> members_;
};

// -------------------------------------------------------------------------------------------------
// The pickle. Every value lives in one table and refers to others by index: nothing is recursive,
// whatever the file says.

enum class Callable : uint8_t { kOrderedDict, kTensor, kParameter, kStorage };

struct Global {
  std::string_view module, name;
  Callable callable;
  int element = 0;  // bytes of a storage's element
  bool is_weight = false;
  DType dtype = DType::kF32;  // if is_weight
};

// All names that a checkpoint may use.
constexpr Global kGlobals[] = {
    {"collections", "OrderedDict", Callable::kOrderedDict},
    {"torch._utils", "_rebuild_tensor_v2", Callable::kTensor},
    {"torch._utils", "_rebuild_parameter", Callable::kParameter},
    {"torch", "FloatStorage", Callable::kStorage, 4, true, DType::kF32},
    {"torch", "HalfStorage", Callable::kStorage, 2, true, DType::kF16},
    {"torch", "BFloat16Storage", Callable::kStorage, 2, true, DType::kBF16},
    {"torch", "DoubleStorage", Callable::kStorage, 8},
    {"torch", "LongStorage", Callable::kStorage, 8},
    {"torch", "IntStorage", Callable::kStorage, 4},
    {"torch", "ShortStorage", Callable::kStorage, 2},
    {"torch", "CharStorage", Callable::kStorage, 1},
    {"torch", "ByteStorage", Callable::kStorage, 1},
    {"torch", "BoolStorage", Callable::kStorage, 1},
    {"torch.storage", "UntypedStorage", Callable::kStorage, 1},
};

enum class Kind : uint8_t {
  kNone,
  kBool,
  kInt,
  kReal,
  kText,
  kTuple,
  kList,
  kDict,
  kGlobal,
  kStorage,
  kTensor
};

constexpr std::string_view name_of(Kind kind) {
  constexpr std::string_view kNames[] = {"None",   "a truth value", "a number", "a number",
                                         "a text", "a tuple",       "a list",   "a dictionary",
                                         "a name", "a storage",     "a tensor"};
  return kNames[static_cast<size_t>(kind)];
}

using Index = uint32_t;

struct Value {
  Kind kind = Kind::kNone;
  int64_t number = 0;  // kInt, kBool; kGlobal: index into kGlobals; kStorage: number of elements
  double real = 0;     // kReal
  std::string_view text{};  // kText; kStorage: its key
  // kTuple, kList: the items. kDict: key, value, key, value ... kStorage: its type. kTensor:
  // storage, offset, sizes, strides.
  std::vector<Index> items{};
};

class Pickle {
 public:
  Pickle(Bytes bytes, std::string path) : bytes_(bytes), path_(std::move(path)) { run(); }

  const Value& root() const { return values_[root_]; }
  const Value& operator[](Index index) const { return values_[index]; }

 private:
  // A checkpoint takes about twenty values per tensor; this leaves room for a hundred thousand
  // tensors.
  static constexpr size_t kMostValues = size_t{1} << 21;

  template <class... Args>
  [[noreturn]] void damaged(fmt::format_string<Args...> format, Args&&... args) const {
    fail(
        "the pickle of '{}' cannot be read at byte {}: {}; expected what torch.save writes for a "
        "dictionary of tensors, save the checkpoint again or copy it again",
        path_, at_, fmt::format(format, std::forward<Args>(args)...));
  }

  Bytes take(uint64_t length) {
    const uint64_t left = bytes_.size() - static_cast<uint64_t>(at_);
    if (length > left) damaged("it ends where {} more bytes should come", length);
    const Bytes taken = bytes_.subspan(at_, length);
    at_ += static_cast<int64_t>(length);
    return taken;
  }
  template <class T>
  T take() {
    return load_at<T>(take(sizeof(T)), 0);
  }
  std::string_view take_line() {
    const std::string_view rest = text_of(bytes_.subspan(at_));
    const size_t length = rest.find('\n');
    if (length == std::string_view::npos) damaged("a name does not end");
    at_ += static_cast<int64_t>(length) + 1;
    return rest.substr(0, length);
  }

  void push(Value value) {
    if (values_.size() >= kMostValues) damaged("it holds more than {} values", kMostValues);
    stack_.push_back(static_cast<Index>(values_.size()));
    values_.push_back(std::move(value));
  }
  void push_text(uint64_t length) { push({.kind = Kind::kText, .text = text_of(take(length))}); }
  void push_number(int64_t number) { push({.kind = Kind::kInt, .number = number}); }

  // Values below the last mark cannot be reached before the mark is gone.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  Index pop() {
    if (stack_.size() <= floor()) damaged("a value is missing");
    const Index top = stack_.back();
    stack_.pop_back();
    return top;
  }
  Index top() const {
    if (stack_.size() <= floor()) damaged("a value is missing");
    return stack_.back();
  }
  std::vector<Index> pop_to_mark() {
    if (marks_.empty()) damaged("a mark is missing");
    std::vector<Index> items(stack_.begin() + static_cast<int64_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  void push_tuple(size_t count) {
    std::vector<Index> items(count);
    for (size_t i = count; i-- > 0;) items[i] = pop();
    push({.kind = Kind::kTuple, .items = std::move(items)});
  }

  void remember(uint32_t key) { memo_[key] = top(); }
  void recall(uint32_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) damaged("it refers to value {}, which does not exist", key);
    stack_.push_back(found->second);
  }

  // The item at `position` of a tuple, which must be of this kind.
  const Value& item(const Value& tuple, size_t position, Kind kind) const {
    const Value& value = values_[tuple.items[position]];
    if (value.kind != kind) {
      damaged("expected {} at place {} of a tuple, got {}", name_of(kind), position,
              name_of(value.kind));
    }
    return value;
  }

  void append(std::vector<Index> items) {
    Value& list = values_[top()];
    if (list.kind != Kind::kList) damaged("expected a list to add to, got {}", name_of(list.kind));
    list.items.insert(list.items.end(), items.begin(), items.end());
  }
  void set_items(std::vector<Index> items) {
    Value& dict = values_[top()];
    if (dict.kind != Kind::kDict) {
      damaged("expected a dictionary to add to, got {}", name_of(dict.kind));
    }
    if (items.size() % 2 != 0) damaged("a dictionary has a key without a value");
    dict.items.insert(dict.items.end(), items.begin(), items.end());
  }

  void push_global(std::string_view module, std::string_view name) {
    for (size_t i = 0; i < std::size(kGlobals); ++i) {
      if (kGlobals[i].module == module && kGlobals[i].name == name) {
        push({.kind = Kind::kGlobal, .number = static_cast<int64_t>(i)});
        return;
      }
    }
    fail(
        "the pickle of '{}' asks for '{}.{}', which a checkpoint does not need and which is not "
        "run: save only the state dictionary, torch.save(model.state_dict(), ...)",
        path_, module, name);
  }

  // The tuple ('storage', type, key, location, number of elements).
  void push_storage() {
    const Index index = pop();
    const Value& id = values_[index];
    if (id.kind != Kind::kTuple || id.items.size() != 5) {
      damaged("expected a storage of five fields");
    }
    if (item(id, 0, Kind::kText).text != "storage") damaged("expected a storage");
    const Global& type = kGlobals[item(id, 1, Kind::kGlobal).number];
    if (type.callable != Callable::kStorage) damaged("{} is not a storage type", type.name);
    const int64_t count = item(id, 4, Kind::kInt).number;
    if (count < 0) damaged("a storage has {} elements", count);
    push({.kind = Kind::kStorage,
          .number = count,
          .text = item(id, 2, Kind::kText).text,
          .items = {id.items[1]}});
  }

  // What calling would give, as data.
  void reduce() {
    const Index argument_index = pop(), callable_index = pop();
    const Value& arguments = values_[argument_index];
    const Value& callable = values_[callable_index];
    if (callable.kind != Kind::kGlobal || arguments.kind != Kind::kTuple) {
      damaged("expected a call with a tuple");
    }
    const Global& global = kGlobals[callable.number];
    switch (global.callable) {
      case Callable::kOrderedDict:
        if (!arguments.items.empty()) {
          damaged("an OrderedDict is built from {} values", arguments.items.size());
        }
        push({.kind = Kind::kDict});
        return;
      case Callable::kTensor: {
        // storage, offset, sizes, strides, requires_grad, hooks, and sometimes metadata
        if (arguments.items.size() < 6 || arguments.items.size() > 7) {
          damaged("a tensor has a wrong number of fields");
        }
        item(arguments, 0, Kind::kStorage);
        item(arguments, 1, Kind::kInt);
        const Value& sizes = item(arguments, 2, Kind::kTuple);
        const Value& strides = item(arguments, 3, Kind::kTuple);
        if (sizes.items.size() != strides.items.size()) {
          damaged("a tensor has sizes and strides of different rank");
        }
        for (size_t axis = 0; axis < sizes.items.size(); ++axis) {
          item(sizes, axis, Kind::kInt);
          item(strides, axis, Kind::kInt);
        }
        push({.kind = Kind::kTensor,
              .items = {arguments.items.begin(), arguments.items.begin() + 4}});
        return;
      }
      case Callable::kParameter:
        if (arguments.items.size() != 3) damaged("a parameter has a wrong number of fields");
        item(arguments, 0, Kind::kTensor);
        stack_.push_back(arguments.items[0]);
        return;
      case Callable::kStorage:
        damaged("a storage type is called");
    }
  }

  // An OrderedDict's attributes (module versions): nothing a checkpoint needs.
  void build() {
    pop();
    if (values_[top()].kind != Kind::kDict) {
      damaged("attributes are set on {}", name_of(values_[top()].kind));
    }
  }

  int64_t take_long() {
    const Bytes digits = take(take<uint8_t>());
    if (digits.size() > 8) damaged("a number has {} bytes", digits.size());
    uint64_t number = 0;
    for (size_t i = 0; i < digits.size(); ++i) {
      number |= static_cast<uint64_t>(digits[i]) << (8 * i);
    }
    const int unused = 64 - 8 * static_cast<int>(digits.size());
    if (unused == 64) return 0;
    return static_cast<int64_t>(number << unused) >> unused;  // the highest digit has the sign
  }

  double take_real() {
    uint64_t bits = 0;
    for (const std::byte digit : take(8)) bits = bits << 8 | static_cast<uint64_t>(digit);
    return std::bit_cast<double>(bits);
  }

  // The names are those of Python's pickletools.
  void run() {
    for (;;) {
      const uint8_t opcode = take<uint8_t>();
      // clang-format off
      switch (opcode) {
        case 0x80: {  // PROTO
          const int protocol = take<uint8_t>();
          if (protocol < 2 || protocol > 5) damaged("protocol {}, expected 2 to 5", protocol);
          break;
        }
        case 0x95: take<uint64_t>(); break;                                      // FRAME
        case '(': marks_.push_back(stack_.size()); break;                        // MARK
        case 'N': push({}); break;                                               // NONE
        case 0x88: push({.kind = Kind::kBool, .number = 1}); break;              // NEWTRUE
        case 0x89: push({.kind = Kind::kBool}); break;                           // NEWFALSE
        case 'J': push_number(take<int32_t>()); break;                           // BININT
        case 'K': push_number(take<uint8_t>()); break;                           // BININT1
        case 'M': push_number(take<uint16_t>()); break;                          // BININT2
        case 0x8a: push_number(take_long()); break;                              // LONG1
        case 'G': push({.kind = Kind::kReal, .real = take_real()}); break;       // BINFLOAT
        case 'X': push_text(take<uint32_t>()); break;                            // BINUNICODE
        case 0x8c: push_text(take<uint8_t>()); break;                            // SHORT_BINUNICODE
        case '}': push({.kind = Kind::kDict}); break;                            // EMPTY_DICT
        case ']': push({.kind = Kind::kList}); break;                            // EMPTY_LIST
        case ')': push({.kind = Kind::kTuple}); break;                           // EMPTY_TUPLE
        case 't': push({.kind = Kind::kTuple, .items = pop_to_mark()}); break;   // TUPLE
        case 0x85: push_tuple(1); break;                                         // TUPLE1
        case 0x86: push_tuple(2); break;                                         // TUPLE2
        case 0x87: push_tuple(3); break;                                         // TUPLE3
        case 'a': append({pop()}); break;                                        // APPEND
        case 'e': append(pop_to_mark()); break;                                  // APPENDS
        case 's': {                                                              // SETITEM
          const Index value = pop(), key = pop();
          set_items({key, value});
          break;
        }
        case 'u': set_items(pop_to_mark()); break;                               // SETITEMS
        case 'q': remember(take<uint8_t>()); break;                              // BINPUT
        case 'r': remember(take<uint32_t>()); break;                             // LONG_BINPUT
        case 0x94: remember(static_cast<uint32_t>(memo_.size())); break;         // MEMOIZE
        case 'h': recall(take<uint8_t>()); break;                                // BINGET
        case 'j': recall(take<uint32_t>()); break;                               // LONG_BINGET
        case 'c': {                                                              // GLOBAL
          const std::string_view module = take_line(), name = take_line();
          push_global(module, name);
          break;
        }
        case 0x93: {  // STACK_GLOBAL
          const Value &name = values_[pop()], &module = values_[pop()];
          const bool texts = name.kind == Kind::kText && module.kind == Kind::kText;
          if (!texts) damaged("a name is not a text");
          push_global(module.text, name.text);
          break;
        }
        case 'Q': push_storage(); break;                                         // BINPERSID
        case 'R': reduce(); break;                                               // REDUCE
        case 'b': build(); break;                                                // BUILD
        case '.': root_ = pop(); return;                                         // STOP
        default: damaged("operation {:#04x} is not one that a checkpoint needs", opcode);
      }
      // clang-format on
    }
  }

  Bytes bytes_;
  std::string path_;
  int64_t at_ = 0;
  std::vector<Value> values_;
  std::vector<Index> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint32_t, Index> memo_;
  Index root_ = 0;
};

// -------------------------------------------------------------------------------------------------
// From the pickle's dictionary to tensors.

bool is_rwkv_name(std::string_view name) {
  for (const std::string_view start : {"blocks.", "emb.", "ln_out.", "head."}) {
    if (name.starts_with(start)) return true;
  }
  return false;
}

// Something the user would miss if it were passed over.
bool looks_like_weight(std::string_view name) {
  return is_rwkv_name(name) || name.ends_with(".weight") || name.ends_with(".bias");
}

std::string_view without_prefix(std::string_view name) {
  for (;;) {
    const std::string_view before = name;
    for (const std::string_view prefix : {"module.", "_forward_module."}) {
      if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
    }
    // Other projects' own names start with "model.", too, and keep it.
    constexpr std::string_view kModel = "model.";
    if (name.starts_with(kModel) && is_rwkv_name(name.substr(kModel.size()))) {
      name.remove_prefix(kModel.size());
    }
    if (name == before) return name;
  }
}

class Reader {
 public:
  Reader(TensorSource& source, const Archive& archive)
      : source_(source),
        path_(source.file().path().string()),
        archive_(archive),
        folder_(find_folder()),
        pickle_(archive.members().at(folder_ + "data.pkl"), path_),
        bytes_left_(kMostBytes * source.file().size()) {}

  void read() {
    const auto order = archive_.members().find(folder_ + "byteorder");
    check(order == archive_.members().end() || text_of(order->second).starts_with("little")) ||
        fail(
            "'{}' was saved on a big-endian machine: load it and save it again on a little-endian "
            "one",
            path_);
    const Value& dict = find_dictionary();
    for (size_t i = 0; i < dict.items.size(); i += 2) {
      const Value &key = pickle_[dict.items[i]], &value = pickle_[dict.items[i + 1]];
      if (key.kind != Kind::kText) continue;
      check(key.text != "_strategy" && key.text != "_rescale_layer") ||
          fail(
              "'{}' was converted by the rwkv pip package, which changes the weights: use the file "
              "it was made from",
              path_);
      const std::string name(without_prefix(key.text));
      if (value.kind == Kind::kTensor) {
        read_tensor(name, value);
      } else {
        check(!looks_like_weight(name)) ||
            fail("'{}': expected a tensor for {}, got {}: save the state dictionary again", path_,
                 name, name_of(value.kind));
        read_metadata(name, value);
      }
    }
  }

 private:
  static constexpr int kMostAxes = 64;
  // All tensors may together take this many times the file: enough for a few views of every
  // storage, and a small file cannot ask for any amount of memory.
  static constexpr int64_t kMostBytes = 4;

  // The one top folder, with its slash.
  std::string find_folder() const {
    constexpr std::string_view kPickle = "/data.pkl";
    std::string found;
    for (const auto& [name, bytes] : archive_.members()) {
      if (!name.ends_with(kPickle)) continue;
      check(found.empty()) ||
          fail("'{}' holds several checkpoints: expected one data.pkl; save the model alone",
               path_);
      found = name.substr(0, name.size() - kPickle.size() + 1);
    }
    check(!found.empty()) || fail(
                                 "'{}' is a ZIP archive without data.pkl: expected a PyTorch "
                                 "checkpoint; if it is an archive of files, unpack it",
                                 path_);
    return found;
  }

  const Value& find_dictionary() const {
    constexpr int kMostWrappers = 3;
    const Value* dict = &pickle_.root();
    check(dict->kind == Kind::kDict) ||
        fail("'{}': expected a dictionary of tensors, got {}: save model.state_dict()", path_,
             name_of(dict->kind));
    for (int depth = 0; depth < kMostWrappers; ++depth) {
      const Value* inner = nullptr;
      for (size_t i = 0; i < dict->items.size(); i += 2) {
        const Value &key = pickle_[dict->items[i]], &value = pickle_[dict->items[i + 1]];
        const bool wraps = key.text == "state_dict" || key.text == "model" || key.text == "module";
        if (key.kind == Kind::kText && wraps && value.kind == Kind::kDict) inner = &value;
      }
      if (inner == nullptr) break;
      dict = inner;
    }
    return *dict;
  }

  void read_metadata(const std::string& name, const Value& value) {
    switch (value.kind) {
      case Kind::kText:
        source_.metadata[name] = value.text;
        break;
      case Kind::kBool:
        source_.metadata[name] = value.number != 0 ? "true" : "false";
        break;
      case Kind::kInt:
        source_.metadata[name] = fmt::format("{}", value.number);
        break;
      case Kind::kReal:
        source_.metadata[name] = fmt::format("{}", value.real);
        break;
      default:
        break;
    }
  }

  std::vector<int64_t> numbers(const Value& tuple) const {
    std::vector<int64_t> result;
    for (const Index item : tuple.items) result.push_back(pickle_[item].number);
    return result;
  }

  // Throws Error if a tensor named like a weight is of a kind that cannot be read; passes over
  // others.
  void read_tensor(const std::string& name, const Value& tensor) {
    const Value& storage = pickle_[tensor.items[0]];
    const Global& type = kGlobals[pickle_[storage.items[0]].number];
    const std::vector<int64_t> sizes = numbers(pickle_[tensor.items[2]]);
    const std::vector<int64_t> strides = numbers(pickle_[tensor.items[3]]);
    const std::optional<Shape> shape = shape_of(sizes);
    if (!type.is_weight || !shape || sizes.size() > kMostAxes) {
      check(!looks_like_weight(name)) ||
          fail(
              "'{}': tensor {} is a {} of {} axes: expected float, half or bfloat16 numbers and at "
              "most {} sizes other than 1; convert it first",
              path_, name, type.name, sizes.size(), Shape::kMaxRank);
      return;
    }

    const auto member = archive_.members().find(folder_ + "data/" + std::string(storage.text));
    check(member != archive_.members().end()) ||
        fail("'{}' lacks the data of tensor {}: copy or download it again", path_, name);
    const Bytes data = member->second;
    check(static_cast<int64_t>(data.size()) / type.element == storage.number &&
          static_cast<int64_t>(data.size()) % type.element == 0) ||
        fail(
            "'{}': expected {} elements of {} bytes for tensor {}, the data has {} bytes: copy or "
            "download it again",
            path_, storage.number, type.element, name, data.size());

    // An expanded tensor (stride 0) has more elements than its storage: nothing in a model, and a
    // way to ask for any amount of memory.
    const std::optional<int64_t> count = count_of(sizes);
    const int64_t offset = pickle_[tensor.items[1]].number;
    const bool fits = count && *count <= storage.number && offset >= 0 && offset <= storage.number;
    check(fits && (*count == 0 ||
                   last_element(sizes, strides, storage.number) < storage.number - offset)) ||
        fail(
            "'{}': tensor {} reaches outside its storage of {} elements, or repeats it: save the "
            "state dictionary again",
            path_, name, storage.number);

    const std::byte* first = data.data() + offset * type.element;
    const int64_t bytes = *count * type.element;
    check(bytes <= bytes_left_) || fail(
                                       "'{}': its tensors are views of their data that together "
                                       "take more than {} times the file: save contiguous copies",
                                       path_, kMostBytes);
    bytes_left_ -= bytes;
    if (*count == 0 || is_contiguous(sizes, strides)) {
      source_.add(name, type.dtype, *shape, first);
    } else {
      source_.tensors.push_back(
          {name, type.dtype, *shape, nullptr,
           [first, sizes, strides, element = int64_t{type.element}, bytes](void* to) {
             copy_in_order(first, sizes, strides, element, bytes, static_cast<std::byte*>(to));
           }});
    }
  }

  // The distance of the last element from the first, or `most` if it is larger or a stride is
  // negative.
  static int64_t last_element(const std::vector<int64_t>& sizes,
                              const std::vector<int64_t>& strides, int64_t most) {
    int64_t last = 0;
    for (size_t axis = 0; axis < sizes.size(); ++axis) {
      int64_t reach;
      if (strides[axis] < 0 || __builtin_mul_overflow(sizes[axis] - 1, strides[axis], &reach) ||
          __builtin_add_overflow(last, reach, &last) || last > most) {
        return most;
      }
    }
    return last;
  }

  static bool is_contiguous(const std::vector<int64_t>& sizes,
                            const std::vector<int64_t>& strides) {
    int64_t expected = 1;
    for (size_t axis = sizes.size(); axis-- > 0;) {
      if (sizes[axis] != 1 && strides[axis] != expected) return false;
      expected *= sizes[axis];
    }
    return true;
  }

  // Last axis fastest.
  static void copy_in_order(const std::byte* first, const std::vector<int64_t>& sizes,
                            const std::vector<int64_t>& strides, int64_t element, int64_t bytes,
                            std::byte* copy) {
    std::vector<int64_t> at(sizes.size());
    int64_t from = 0;
    for (int64_t to = 0; to < bytes; to += element) {
      std::memcpy(copy + to, first + from * element, static_cast<size_t>(element));
      for (size_t axis = sizes.size(); axis-- > 0;) {
        if (sizes[axis] == 1) continue;  // its stride means nothing and may be any number
        from += strides[axis];
        if (++at[axis] < sizes[axis]) break;
        from -= strides[axis] * sizes[axis];
        at[axis] = 0;
      }
    }
  }

  TensorSource& source_;
  std::string path_;
  const Archive& archive_;
  std::string folder_;
  Pickle pickle_;
  int64_t bytes_left_;
};

}  // namespace

TensorSource read_pth(MappedFile file) {
  TensorSource source("pth", std::move(file));
  const Archive archive(source.file().bytes(), source.file().path().string());
  Reader(source, archive).read();
  return source;
}

}  // namespace rookery
