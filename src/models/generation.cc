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

int64_t StoredShapes::size(const char* name, int axis) const {
  const auto found = shapes_.find(name);
  check(found != shapes_.end()) || fail("the checkpoint lacks '{}': is it complete?", name);
  check(found->second.rank() > axis) ||
      fail("'{}' is {}, expected at least {} sizes", name, found->second.to_string(), axis + 1);
  return found->second[axis];
}

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
