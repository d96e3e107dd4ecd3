#include "formats/huggingface.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "formats/files_for_tests.h"
#include "formats/huggingface_writer.h"
#include "formats/pth_writer.h"
#include "formats/safetensors.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kVocabulary = 5, kWidth = 2, kAttention = 3, kFfn = 7, kLayers = 2;

// Every tensor of a model with the sizes above, each number another.
struct Tensors {
  Tensors() {
    numbers.resize(1000);
    std::iota(numbers.begin(), numbers.end(), 0.5f);
    const auto add = [&](const std::string& name, const Shape& shape) {
      list.push_back({name, DType::kF32, shape, &numbers[static_cast<size_t>(next)]});
      next += shape.count();
    };
    add("emb.weight", {kVocabulary, kWidth});
    for (int64_t l = 0; l < kLayers; ++l) {
      const std::string block = fmt::format("blocks.{}.", l);
      for (const char* norm : {"ln0", "ln1", "ln2"}) {
        if (l > 0 && std::string(norm) == "ln0") continue;
        add(block + norm + ".weight", {kWidth});
        add(block + norm + ".bias", {kWidth});
      }
      add(block + "att.time_decay", {kAttention});
      add(block + "att.time_first", {kAttention});
      for (const char* mix : {"att.time_mix_k", "att.time_mix_v", "att.time_mix_r",
                              "ffn.time_mix_k", "ffn.time_mix_r"}) {
        add(block + mix, {1, 1, kWidth});
      }
      for (const char* name : {"key", "value", "receptance"}) {
        add(block + "att." + name + ".weight", {kAttention, kWidth});
      }
      add(block + "att.output.weight", {kWidth, kAttention});
      add(block + "ffn.key.weight", {kFfn, kWidth});
      add(block + "ffn.receptance.weight", {kWidth, kWidth});
      add(block + "ffn.value.weight", {kWidth, kFfn});
    }
    add("ln_out.weight", {kWidth});
    add("ln_out.bias", {kWidth});
    add("head.weight", {kVocabulary, kWidth});
  }

  std::vector<float> numbers;
  std::vector<StoredTensor> list;
  int64_t next = 0;
};

const Tensors& tensors() {
  static const Tensors all;
  return all;
}

void expect_all_tensors(const TensorSource& source) {
  EXPECT_EQ(source.tensors.size(), tensors().list.size());
  for (const StoredTensor& wanted : tensors().list) {
    const StoredTensor* got = source.find(wanted.name);
    ASSERT_NE(got, nullptr) << wanted.name;
    EXPECT_EQ(got->shape, wanted.shape) << wanted.name;
    EXPECT_EQ(numbers_of<float>(*got), numbers_of<float>(wanted)) << wanted.name;
  }
}

// The tensors with the names of the transformers library.
std::vector<StoredTensor> their_tensors() {
  std::vector<StoredTensor> list = tensors().list;
  for (StoredTensor& tensor : list) tensor.name = *huggingface_name(tensor.name);
  return list;
}

fs::path write_folder(const TemporaryFolder& folder, int64_t shard_bytes = 1 << 30) {
  const fs::path path = folder.path() / "model";
  write_huggingface(path, tensors().list, {}, {.shard_bytes = shard_bytes});
  return path;
}

void overwrite(const fs::path& path, const std::string& text) {
  fs::remove(path);
  std::ofstream(path, std::ios::binary) << text;
}

// The error for the folder with one changed file, which is put back.
std::string error_with(const fs::path& folder, const char* file, const std::string& text) {
  const std::string before = read_text_file(folder / file);
  overwrite(folder / file, text);
  const std::string error = error_of(folder);
  overwrite(folder / file, before);
  return error;
}

constexpr char kIndexFile[] = "model.safetensors.index.json";

// -------------------------------------------------------------------------------------------------

TEST(Huggingface, WhatIsWrittenIsRead) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "model";
  const std::string vocabulary = "1 'a' 1\n2 'b' 1\n";
  write_huggingface(path, tensors().list, {{"rookery", "{}"}, {"tokenizer", vocabulary}},
                    {.context_length = 64, .norm_epsilon = 1e-3f});
  const Json config = Json::parse(read_text_file(path / "config.json"));
  const Json wanted = {{"architectures", Json::array({"RwkvForCausalLM"})},
                       {"attention_hidden_size", kAttention},
                       {"bos_token_id", 0},
                       {"context_length", 64},
                       {"eos_token_id", 0},
                       {"hidden_size", kWidth},
                       {"intermediate_size", kFfn},
                       {"layer_norm_epsilon", 0.001},
                       {"model_type", "rwkv"},
                       {"num_hidden_layers", kLayers},
                       {"rescale_every", 6},
                       {"tie_word_embeddings", false},
                       {"torch_dtype", "float32"},
                       {"use_cache", true},
                       {"vocab_size", kVocabulary}};
  EXPECT_EQ(config, wanted);
  EXPECT_EQ(read_text_file(path / "rwkv_vocab_v20230424.txt"), vocabulary);
  const TensorSource weights = open_file(path / "model.safetensors");
  const std::map<std::string, std::string> beside = {{"format", "pt"}, {"rookery", "{}"}};
  EXPECT_EQ(weights.metadata, beside);
  for (const char* name :
       {"rwkv.embeddings.weight", "rwkv.blocks.0.pre_ln.bias",
        "rwkv.blocks.1.attention.time_mix_receptance", "rwkv.blocks.1.feed_forward.value.weight",
        "rwkv.ln_out.bias", "head.weight"}) {
    EXPECT_NE(weights.find(name), nullptr) << name;
  }

  const TensorSource source = open_checkpoint(path);
  EXPECT_EQ(source.format, "huggingface");
  EXPECT_EQ(source.epsilons.layer_norm, 1e-3f);
  EXPECT_EQ(source.metadata.at("tokenizer"), vocabulary);
  EXPECT_EQ(source.metadata.at("rookery"), "{}");
  expect_all_tensors(source);
}

// Every name of the transformers library, and the tensor that it stands for.
TEST(Huggingface, EachTensorHasItsOwnName) {
  const std::vector<std::pair<std::string, std::string>> names = {
      {"emb.weight", "rwkv.embeddings.weight"},
      {"blocks.0.ln0.weight", "rwkv.blocks.0.pre_ln.weight"},
      {"blocks.0.ln0.bias", "rwkv.blocks.0.pre_ln.bias"},
      {"blocks.1.ln1.weight", "rwkv.blocks.1.ln1.weight"},
      {"blocks.1.ln1.bias", "rwkv.blocks.1.ln1.bias"},
      {"blocks.1.ln2.weight", "rwkv.blocks.1.ln2.weight"},
      {"blocks.1.ln2.bias", "rwkv.blocks.1.ln2.bias"},
      {"blocks.1.att.time_decay", "rwkv.blocks.1.attention.time_decay"},
      {"blocks.1.att.time_first", "rwkv.blocks.1.attention.time_first"},
      {"blocks.1.att.time_mix_k", "rwkv.blocks.1.attention.time_mix_key"},
      {"blocks.1.att.time_mix_v", "rwkv.blocks.1.attention.time_mix_value"},
      {"blocks.1.att.time_mix_r", "rwkv.blocks.1.attention.time_mix_receptance"},
      {"blocks.1.att.key.weight", "rwkv.blocks.1.attention.key.weight"},
      {"blocks.1.att.value.weight", "rwkv.blocks.1.attention.value.weight"},
      {"blocks.1.att.receptance.weight", "rwkv.blocks.1.attention.receptance.weight"},
      {"blocks.1.att.output.weight", "rwkv.blocks.1.attention.output.weight"},
      {"blocks.1.ffn.time_mix_k", "rwkv.blocks.1.feed_forward.time_mix_key"},
      {"blocks.1.ffn.time_mix_r", "rwkv.blocks.1.feed_forward.time_mix_receptance"},
      {"blocks.1.ffn.key.weight", "rwkv.blocks.1.feed_forward.key.weight"},
      {"blocks.1.ffn.receptance.weight", "rwkv.blocks.1.feed_forward.receptance.weight"},
      {"blocks.1.ffn.value.weight", "rwkv.blocks.1.feed_forward.value.weight"},
      {"ln_out.weight", "rwkv.ln_out.weight"},
      {"ln_out.bias", "rwkv.ln_out.bias"},
      {"head.weight", "head.weight"},
  };
  const TemporaryFolder folder;
  const TensorSource written = open_file(write_folder(folder) / "model.safetensors");
  EXPECT_EQ(written.tensors.size(), tensors().list.size());
  for (const auto& [ours, theirs] : names) {
    EXPECT_EQ(huggingface_name(ours), theirs);
    const StoredTensor* tensor = written.find(theirs);
    ASSERT_NE(tensor, nullptr) << theirs;
    const auto source = std::find_if(tensors().list.begin(), tensors().list.end(),
                                     [&](const StoredTensor& t) { return t.name == ours; });
    EXPECT_EQ(numbers_of<float>(*tensor), numbers_of<float>(*source)) << theirs;
  }
}

TEST(Huggingface, TheTypeIsThatOfAllNumbers) {
  for (const auto& [dtype, name] :
       {std::pair{DType::kF16, "float16"}, {DType::kBF16, "bfloat16"}, {DType::kF32, "float32"}}) {
    const TemporaryFolder folder;
    std::vector<StoredTensor> list = tensors().list;
    for (StoredTensor& tensor : list) tensor.dtype = dtype;
    write_huggingface(folder.path() / "one", list, {}, {});
    list.front().dtype = DType::kF32;
    write_huggingface(folder.path() / "mixed", list, {}, {});
    const auto type_in = [&](const char* path) {
      return Json::parse(read_text_file(folder.path() / path / "config.json")).at("torch_dtype");
    };
    EXPECT_EQ(type_in("one"), name);
    EXPECT_EQ(type_in("mixed"), "float32");
  }
}

TEST(Huggingface, TokenizersAreFilesIfTheyAreTexts) {
  EXPECT_STREQ(tokenizer_file_name("{\"model\":1}"), "tokenizer.json");
  EXPECT_STREQ(tokenizer_file_name("1 'a' 1\n"), "rwkv_vocab_v20230424.txt");
  EXPECT_EQ(tokenizer_file_name("bytes"), nullptr);
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "model";
  write_huggingface(path, tensors().list, {{"tokenizer", "bytes"}}, {});
  EXPECT_EQ(open_checkpoint(path).metadata.at("tokenizer"), "bytes");
  overwrite(path / "tokenizer.json", "{}");
  EXPECT_EQ(open_checkpoint(path).metadata.at("tokenizer"), "{}");
}

TEST(Huggingface, ShardsAreWrittenAndRead) {
  const TemporaryFolder folder;
  const fs::path path = write_folder(folder, 100);
  EXPECT_FALSE(fs::exists(path / "model.safetensors"));
  const Json index = Json::parse(read_text_file(path / kIndexFile));
  EXPECT_EQ(index["metadata"]["total_size"], bytes_of(tensors().list));
  EXPECT_EQ(index["weight_map"].size(), tensors().list.size());
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : index["weight_map"].items()) shards.insert(shard);
  EXPECT_GT(shards.size(), 3u);
  for (const std::string& shard : shards) {
    const TensorSource source = open_file(path / shard);
    EXPECT_LE(bytes_of(source.tensors), 100) << shard;
  }
  const TensorSource source = open_checkpoint(path);
  EXPECT_EQ(source.files().size(), shards.size());
  expect_all_tensors(source);
}

TEST(Huggingface, ReadsWeightsOfPyTorch) {
  const TemporaryFolder folder;
  const fs::path path = write_folder(folder);
  fs::remove(path / "model.safetensors");
  EXPECT_NE(error_of(path).find("no weights"), std::string::npos);
  const std::vector<StoredTensor> theirs = their_tensors();
  write_pth(path / "pytorch_model.bin", theirs);
  expect_all_tensors(open_checkpoint(path));
  fs::remove(path / "pytorch_model.bin");
  const auto half = std::span(theirs).first(theirs.size() / 2);
  const auto rest = std::span(theirs).subspan(half.size());
  write_pth(path / "a.bin", half);
  write_pth(path / "b.bin", rest);
  Json index;
  for (const StoredTensor& tensor : half) index["weight_map"][tensor.name] = "a.bin";
  for (const StoredTensor& tensor : rest) index["weight_map"][tensor.name] = "b.bin";
  overwrite(path / "pytorch_model.bin.index.json", index.dump());
  expect_all_tensors(open_checkpoint(path));
}

TEST(Huggingface, NamesDecideInSingleFiles) {
  const TemporaryFolder folder;
  write_safetensors(folder.path() / "x.safetensors", their_tensors(), {});
  expect_all_tensors(open_checkpoint(folder.path() / "x.safetensors"));
  write_pth(folder.path() / "x.bin", their_tensors());
  expect_all_tensors(open_checkpoint(folder.path() / "x.bin"));
  for (const StoredTensor& tensor : tensors().list) {
    EXPECT_NE(huggingface_name(tensor.name), std::nullopt) << tensor.name;
  }
  for (const char* name :
       {"", "emb", "blocks.", "blocks.0", "blocks.0.", "blocks.0.att.gate.weight",
        "blocks.0.att.time_mix_key", "rwkv.embeddings.weight"}) {
    EXPECT_EQ(huggingface_name(name), std::nullopt) << name;
  }
  const float number = 1;
  for (const char* name :
       {"rwkv.blocks.0.attention.ln_x.weight", "rwkv.blocks.0.attention.time_maa_x",
        "rwkv.blocks.0.attention.gate.weight"}) {
    const StoredTensor later[] = {{name, DType::kF32, {1}, &number}};
    write_safetensors(folder.path() / "later.safetensors", later, {});
    EXPECT_NE(error_of(folder.path() / "later.safetensors").find("generation 5 or 6"),
              std::string::npos)
        << name;
  }
}

TEST(Huggingface, ATiedHeadIsTheEmbedding) {
  const TemporaryFolder folder;
  const fs::path path = write_folder(folder);
  Json config = Json::parse(read_text_file(path / "config.json"));
  config["tie_word_embeddings"] = true;
  overwrite(path / "config.json", config.dump());
  for (const bool stored : {true, false}) {
    SCOPED_TRACE(stored);
    if (!stored) {
      std::vector<StoredTensor> theirs = their_tensors();
      theirs.pop_back();
      write_safetensors(path / "model.safetensors", theirs, {});
    }
    const TensorSource source = open_checkpoint(path);
    ASSERT_EQ(source.tensors.size(), tensors().list.size());
    EXPECT_EQ(numbers_of<float>(*source.find("head.weight")),
              numbers_of<float>(*source.find("emb.weight")));
  }
}

TEST(Huggingface, RefusesOtherConfigurations) {
  const TemporaryFolder folder;
  const fs::path path = write_folder(folder);
  const Json good = Json::parse(read_text_file(path / "config.json"));
  const auto refuses = [&](const char* key, const Json& value, const std::string& why) {
    Json config = good;
    config[key] = value;
    const std::string error = error_with(path, "config.json", config.dump());
    EXPECT_NE(error.find(why), std::string::npos) << key << " " << value << "\n" << error;
  };
  refuses("model_type", "rwkv7", "\"rwkv7\", a later generation");
  refuses("model_type", "rwkv6qwen2", "a later generation");
  refuses("model_type", "llama", "expected \"rwkv\"");
  refuses("model_type", 4, "has no model_type");
  refuses("model_type", nullptr, "has no model_type");
  const std::string sizes = "they belong to different models";
  for (const char* key : {"vocab_size", "hidden_size", "num_hidden_layers", "attention_hidden_size",
                          "intermediate_size"}) {
    for (const Json& value : {Json(1), Json(-1), Json(1e300), Json(2.5), Json("5"), Json(true),
                              Json::array(), Json::object(), Json(UINT64_MAX)}) {
      refuses(key, value, sizes);
    }
    Json config = good;
    config[key] = nullptr;
    EXPECT_EQ(error_with(path, "config.json", config.dump()), "") << key;
    config.erase(key);
    EXPECT_EQ(error_with(path, "config.json", config.dump()), "") << key;
  }
  for (const Json& value : {Json(0), Json(-1), Json(1), Json(1e300), Json(1e-300), Json("1e-5"),
                            Json(true), Json::array()}) {
    refuses("layer_norm_epsilon", value, "expected a number between 0 and 1");
  }
  refuses("tie_word_embeddings", 1, "expected true or false");
  const auto refuses_text = [&](const std::string& text, const std::string& why) {
    const std::string error = error_with(path, "config.json", text);
    EXPECT_NE(error.find(why), std::string::npos) << error;
  };
  refuses_text("", "is empty");
  refuses_text("[]", "no JSON object");
  refuses_text("{", "not valid JSON");
  refuses_text("\xff\xfe{}", "not valid JSON");
  refuses_text("{\"model_type\":\"\xff\"}", "not valid JSON");
  refuses_text(R"({"model_type":"rwkv","model_type":"rwkv7"})", "two entries called model_type");
  refuses_text(std::string(100'000, '['), "nested too deeply");
  refuses_text(R"({"a":)" + std::string(100'000, '['), "nested too deeply");
  refuses_text(std::string((16 << 20) + 1, ' '), "expected at most");
  fs::remove(path / "config.json");
  EXPECT_NE(error_of(path).find("a folder without config.json"), std::string::npos);
}

TEST(Huggingface, RefusesIndexesThatLeaveTheFolderOrLie) {
  const TemporaryFolder folder;
  const fs::path path = write_folder(folder, 100);
  const Json good = Json::parse(read_text_file(path / kIndexFile));
  const auto refuses = [&](const Json& index, const std::string& why) {
    const std::string error = error_with(path, kIndexFile, index.dump());
    EXPECT_NE(error.find(why), std::string::npos) << index << error;
  };
  // The very shard, outside: a reader that follows the path would open it.
  const std::string shard = good["weight_map"]["head.weight"];
  fs::copy(path / shard, folder.path() / shard);
  for (const Json& place :
       {Json("../" + shard), Json((folder.path() / shard).string()), Json("./" + shard), Json(".."),
        Json("."), Json(""), Json("a/" + shard), Json(kIndexFile), Json(std::string("a\0b", 3)),
        Json(1), Json(nullptr), Json::array({shard}), Json::object()}) {
    Json index = good;
    index["weight_map"]["head.weight"] = place;
    refuses(index, "expected the plain name of a file in the same folder");
  }
  Json index = good;
  index["weight_map"]["head.weight"] = "config.json";
  refuses(index, "starts like no checkpoint");
  index["weight_map"]["head.weight"] = "absent.safetensors";
  refuses(index, "found nothing there");
  index["weight_map"]["head.weight"] = good["weight_map"]["rwkv.embeddings.weight"];
  refuses(index, "belong to different models");
  index = good;
  index["weight_map"].erase("rwkv.ln_out.bias");  // not alone in its shard
  refuses(index, "belong to different models");
  index = good;
  index["weight_map"]["head.weights"] = shard;
  refuses(index, "belong to different models");
  for (const Json& map : {Json(nullptr), Json::object(), Json::array({1}), Json("x")}) {
    refuses({{"weight_map", map}}, "has no weight_map");
  }
  refuses(Json::object(), "has no weight_map");
  const std::string twice =
      error_with(path, kIndexFile, R"({"weight_map":{"a":"x.st","a":"y.st"}})");
  EXPECT_NE(twice.find("two entries called a"), std::string::npos) << twice;
  fs::remove(path / kIndexFile);
  fs::create_directory(path / kIndexFile);
  EXPECT_NE(error_of(path).find("is a folder"), std::string::npos);
}

// Every truncation of the file, and files with one to four changed bytes.
void expect_damage_is_survived(const fs::path& path, const char* name, uint32_t seed) {
  const std::string bytes = read_text_file(path / name);
  ASSERT_TRUE(opens(path));
  for (size_t length = 0; length + 2 < bytes.size(); ++length) {  // "}\n" ends it
    overwrite(path / name, bytes.substr(0, length));
    ASSERT_FALSE(opens(path)) << "the first " << length << " bytes";
  }
  std::mt19937 random(seed);
  int opened = 0;
  constexpr int kCount = 1000;
  for (int i = 0; i < kCount; ++i) {
    std::string changed = bytes;
    for (uint32_t changes = 1 + random() % 4; changes > 0; --changes) {
      constexpr char kSigns[] = "\"{}[]:,0129-.e/\\ \n\x80\xff";
      changed[random() % changed.size()] = kSigns[random() % (sizeof(kSigns) - 1)];
    }
    overwrite(path / name, changed);
    SCOPED_TRACE(i);
    opened += opens(path) ? 1 : 0;
  }
  EXPECT_GT(opened, 0);
  EXPECT_LT(opened, kCount);
}

TEST(Huggingface, DamagedConfigurationsAreSurvived) {
  const TemporaryFolder folder;
  expect_damage_is_survived(write_folder(folder), "config.json", 1);
}

TEST(Huggingface, DamagedIndexesAreSurvived) {
  const TemporaryFolder folder;
  // Few shards, so that opening is quick.
  expect_damage_is_survived(write_folder(folder, 400), kIndexFile, 2);
}

TEST(Huggingface, ReplacesNothingAndLeavesNothing) {
  const TemporaryFolder folder;
  const auto entries = [&] {
    return std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator());
  };
  const auto refuses = [&](const fs::path& path, const std::string& why) {
    try {
      write_huggingface(path, tensors().list, {}, {});
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
    }
  };
  save(folder, "file", "x");
  refuses(folder.path() / "file", "is a file");
  refuses(folder.path() / "none" / "model", "there is no folder");
  refuses(folder.path(), "is not empty");
  refuses("", "got no name");
  EXPECT_EQ(entries(), 1);

  // What fails or is stopped on the way leaves nothing.
  const fs::path path = folder.path() / "model";
  std::vector<StoredTensor> broken = tensors().list;
  broken.back().data = nullptr;
  broken.back().make = [](void*) { fail("cannot be made"); };
  EXPECT_THROW(write_huggingface(path, broken, {}, {}), Error);
  EXPECT_THROW(write_huggingface(path, tensors().list, {}, {}, [](int64_t) { fail("stopped"); }),
               Error);
  std::vector<StoredTensor> other = tensors().list;
  other[3].name = "blocks.0.att.gate.weight";
  EXPECT_THROW(write_huggingface(path, other, {}, {}), Error);
  EXPECT_THROW(write_huggingface(path, std::span(other).subspan(1), {}, {}), Error);
  EXPECT_EQ(entries(), 1);

  // An empty folder is filled, with a slash behind its name, too.
  fs::create_directory(path);
  write_huggingface(path / "", tensors().list, {}, {});
  expect_all_tensors(open_checkpoint(path));
  EXPECT_EQ(entries(), 2);
  refuses(path, "is not empty");
}

}  // namespace
}  // namespace rookery
