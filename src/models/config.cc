#include "models/config.h"

#include "core/error.h"
#include "models/generation.h"

namespace rookery {

ModelConfig make_config(std::string_view generation, int64_t layers, int64_t width,
                        int64_t vocabulary) {
  find_generation(generation);
  constexpr int64_t kLimit = int64_t{1} << 24;
  check(layers > 0 && layers <= 4096 && width > 0 && width <= kLimit && vocabulary > 0 &&
        vocabulary <= kLimit) ||
      fail(
          "a model of {} layers, width {}, vocabulary {} cannot be built: layers should be 1 to "
          "4096, width and vocabulary 1 to {}",
          layers, width, vocabulary, kLimit);
  return {.generation = std::string(generation),
          .layers = layers,
          .width = width,
          .attention_width = width,
          .ffn_width = 4 * width,
          .vocabulary = vocabulary};
}

}  // namespace rookery
