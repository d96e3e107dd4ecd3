#include "models/generation.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "core/error.h"
#include "models/rwkv4.h"

namespace rookery {
namespace {

const Generation* const kGenerations[] = {&kRwkv4};

}  // namespace

const Generation& find_generation(std::string_view name) {
  for (const Generation* generation : kGenerations) {
    if (generation->name == name) return *generation;
  }
  std::string known;
  for (const Generation* generation : kGenerations) {
    known += (known.empty() ? "" : ", ") + std::string(generation->name);
  }
  fail("RWKV generation '{}' is not supported by this version; it runs: {}", name, known);
}

bool has_generation(std::string_view name) {
  return std::any_of(std::begin(kGenerations), std::end(kGenerations),
                     [&](const Generation* g) { return g->name == name; });
}

}  // namespace rookery
