#include "models/config.h"

#include <type_traits>

#include "core/error.h"
#include "models/generation.h"

namespace rookery {

std::vector<std::pair<std::string, int64_t>> sizes_of(const ModelConfig& config) {
  std::vector<std::pair<std::string, int64_t>> sizes;
  config.visit([&]<class Member>(const char* name, const Member& member) {
    if constexpr (std::is_same_v<Member, int64_t>) {
      if (member != 0) sizes.emplace_back(name, member);
    }
  });
  return sizes;
}

ModelConfig make_config(std::string_view generation, int64_t layers, int64_t width,
                        int64_t vocabulary) {
  const Generation& found = find_generation(generation);
  constexpr int64_t kLimit = int64_t{1} << 24;
  check(layers > 0 && layers <= 4096 && width > 0 && width <= kLimit && vocabulary > 0 &&
        vocabulary <= kLimit) ||
      fail(
          "a model of {} layers, width {}, vocabulary {} cannot be built: layers should be 1 to "
          "4096, width and vocabulary 1 to {}",
          layers, width, vocabulary, kLimit);
  ModelConfig config{.generation = std::string(generation),
                     .layers = layers,
                     .width = width,
                     .vocabulary = vocabulary};
  found.choose_sizes(config);
  return config;
}

}  // namespace rookery
