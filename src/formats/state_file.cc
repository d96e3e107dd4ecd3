#include "formats/state_file.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "io/hash.h"
#include "io/json.h"
#include "formats/safetensors.h"

namespace rookery {
namespace {

using nlohmann::json;

constexpr int64_t kVersion = 2;
constexpr const char* kKey = "rookery_state";
constexpr const char* kChecksum = "checksum";
constexpr std::string_view kLogits = "logits";
constexpr std::string_view kRoles[] = {"system", "user", "assistant"};

std::string_view bytes_of(const StoredTensor& tensor) {
  return {static_cast<const char*>(tensor.data), static_cast<size_t>(tensor.bytes())};
}

// Of everything that is read from the file.
std::string checksum_of(std::string_view about, std::span<const StoredTensor> tensors) {
  uint64_t hash = hash_bytes(about);
  for (const StoredTensor& tensor : tensors) {
    hash = hash_bytes(fmt::format("\n{}{}", tensor.name, tensor.shape.to_string()), hash);
    hash = hash_bytes(bytes_of(tensor), hash);
  }
  return fmt::format("{:016x}", hash);
}

void check_finite(const StoredTensor& tensor, const std::string& path) {
  const auto* values = static_cast<const float*>(tensor.data);
  const int64_t count = tensor.shape.count();
  const auto* bad =
      std::find_if_not(values, values + count, [](float x) { return std::isfinite(x); });
  check(bad == values + count) ||
      fail(
          "'{}': element {} of {} is {}: expected finite numbers; the computation that made the "
          "state overflowed",
          path, bad - values, tensor.name, bad == values + count ? 0.0f : *bad);
}

json to_json(const SavedState& state) {
  json sizes = json::array();
  for (const auto& [name, size] : state.sizes) sizes.push_back({name, size});
  json all = {{"version", kVersion},       {"generation", state.generation},
              {"sizes", std::move(sizes)}, {"fingerprint", state.fingerprint},
              {"tokens", state.tokens},    {"tokenizer", state.tokenizer}};
  if (state.sampler) {
    all["sampler"] = {{"seed", state.sampler->seed},
                      {"random_position", state.sampler->random_position},
                      {"penalty_mode", state.sampler->penalty_mode},
                      {"penalties", state.sampler->penalties}};
  }
  if (state.chat) {
    json messages = json::array();
    for (const SavedMessage& message : state.chat->messages) {
      messages.push_back({{"role", message.role}, {"text", message.text}});
      if (!message.thought.empty()) messages.back()["thought"] = message.thought;
    }
    all["chat"] = {{"template", state.chat->template_name},
                   {"user", state.chat->user},
                   {"assistant", state.chat->assistant},
                   {"messages", std::move(messages)}};
  }
  return all;
}

// A number without a fraction: the library would cut one off, or overflow.
template <class T>
T whole(const json& value) {
  check(std::is_signed_v<T> ? value.is_number_integer() : value.is_number_unsigned()) ||
      fail("{} stands where a whole number is expected", value.dump());
  return value.get<T>();
}

SavedSampler sampler_from(const json& from) {
  SavedSampler sampler;
  sampler.seed = whole<uint64_t>(from.at("seed"));
  sampler.random_position = whole<uint64_t>(from.at("random_position"));
  from.at("penalty_mode").get_to(sampler.penalty_mode);
  for (const json& pair : from.at("penalties")) {
    const int64_t id = whole<int64_t>(pair.at(0));
    const double number = pair.at(1).get<double>();
    check(id >= 0 && std::isfinite(number)) || fail("its sampler has token {} with {}", id, number);
    sampler.penalties.emplace_back(id, number);
  }
  return sampler;
}

SavedChat chat_from(const json& from) {
  SavedChat chat;
  from.at("template").get_to(chat.template_name);
  from.at("user").get_to(chat.user);
  from.at("assistant").get_to(chat.assistant);
  for (const json& message : from.at("messages")) {
    SavedMessage& added = chat.messages.emplace_back();
    message.at("role").get_to(added.role);
    message.at("text").get_to(added.text);
    if (message.contains("thought")) message.at("thought").get_to(added.thought);
    check(std::find(std::begin(kRoles), std::end(kRoles), added.role) != std::end(kRoles)) ||
        fail("it has a message of '{}'", added.role);
  }
  return chat;
}

SavedState from_json(const json& all) {
  SavedState state;
  all.at("generation").get_to(state.generation);
  for (const json& size : all.at("sizes")) {
    state.sizes.emplace_back(size.at(0).get<std::string>(), whole<int64_t>(size.at(1)));
  }
  all.at("fingerprint").get_to(state.fingerprint);
  state.tokens = whole<int64_t>(all.at("tokens"));
  all.at("tokenizer").get_to(state.tokenizer);
  check(state.tokens >= 0) || fail("it has read {} tokens", state.tokens);
  if (all.contains("sampler")) state.sampler = sampler_from(all.at("sampler"));
  if (all.contains("chat")) state.chat = chat_from(all.at("chat"));
  return state;
}

bool is_state_file(const std::filesystem::path& path) {
  try {
    return open_checkpoint(path).metadata.contains(kKey);
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

void write_state_file(const std::filesystem::path& path, const SavedState& state) {
  std::error_code error;
  check(!std::filesystem::is_regular_file(path, error) || is_state_file(path)) ||
      fail("'{}' exists and is no saved state: choose another name", path.string());
  std::vector<StoredTensor> tensors;
  const auto add = [&](const std::string& name, const std::vector<float>& values) {
    tensors.push_back({name, DType::kF32, {static_cast<int64_t>(values.size())}, values.data()});
    check_finite(tensors.back(), path.string());
  };
  for (const SavedItem& item : state.items) {
    check(item.name != kLogits) ||
        fail("'{}': an item of a state cannot be called {}", path.string(), item.name);
    add(item.name, item.values);
  }
  if (!state.logits.empty()) add(std::string(kLogits), state.logits);
  std::string about;
  try {
    about = to_json(state).dump();
  } catch (const json::exception& problem) {
    fail("cannot write '{}': a text is not UTF-8 ({})", path.string(), problem.what());
  }
  const std::string checksum = checksum_of(about, tensors);
  write_safetensors(path, tensors, {{kKey, std::move(about)}, {kChecksum, checksum}});
}

SavedState read_state_file(const std::filesystem::path& path) {
  TensorSource source = open_checkpoint(path);
  const auto about = source.metadata.find(kKey), checksum = source.metadata.find(kChecksum);
  check(about != source.metadata.end()) ||
      fail("'{}' is no saved state: expected a file that generate or chat wrote with --save-state",
           path.string());
  const std::string damaged =
      fmt::format("'{}' is damaged, make it again or copy it again: ", path.string());
  std::vector<std::vector<float>> values;  // of the tensors, which may not be aligned in the file
  TensorReader reader;
  for (StoredTensor& tensor : source.tensors) {
    check(tensor.dtype == DType::kF32 && tensor.shape.rank() == 1) ||
        fail("{}{} is {} of type {}, expected a vector of f32", damaged, tensor.name,
             tensor.shape.to_string(), name_of(tensor.dtype));
    const auto* numbers = static_cast<const float*>(reader.read(tensor));
    values.emplace_back(numbers, numbers + tensor.shape.count());
    tensor.data = values.back().data();
  }
  const auto told = [&](const auto& read) {
    try {
      return read();
    } catch (const json::exception& problem) {
      fail("{}{}", damaged, problem.what());
    } catch (const Error& problem) {
      fail("{}{}", damaged, problem.what());
    }
  };
  // The pairs of the sampler's penalties are the deepest there is.
  constexpr int kDeepest = 5;
  const json all =
      told([&] { return parse_json_text(about->second, kDeepest, "its description"); });
  // Before the checksum: another version may compute another one.
  const int64_t version = told([&] { return whole<int64_t>(all.at("version")); });
  check(version == kVersion) ||
      fail(
          "'{}' has version {} of the state format, this program reads version {}: save the state "
          "again, or use the program that wrote it",
          path.string(), version, kVersion);
  check(checksum != source.metadata.end() &&
        checksum->second == checksum_of(about->second, source.tensors)) ||
      fail("{}its checksum is wrong", damaged);
  SavedState state = told([&] { return from_json(all); });
  for (size_t i = 0; i < values.size(); ++i) {
    const StoredTensor& tensor = source.tensors[i];
    check_finite(tensor, path.string());
    if (tensor.name == kLogits) {
      state.logits = std::move(values[i]);
    } else {
      state.items.push_back({tensor.name, std::move(values[i])});
    }
  }
  return state;
}

}  // namespace rookery
