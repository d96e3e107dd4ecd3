// A program of one's own around the library: tells a story, talks about it, and measures both.
//
//   embed models/stories/stories.safetensors "Once upon a time"
#include <iostream>
#include <rookery/rookery.hpp>

namespace {

bool show(std::string_view text) {
  std::cout << text << std::flush;
  return true;  // false would end the text here
}

int run(const char* path, const char* prompt) {
  const auto model = rookery::LanguageModel::load(path);
  std::cout << "RWKV-" << model.info().generation << ", " << model.info().parameters
            << " parameters\n\n"
            << prompt;
  const rookery::Completion story = model.generate(
      prompt, {.most_tokens = 100, .sampling = {.temperature = 0.8, .seed = 1}}, show);
  std::cout << "\n\n" << story.tokens << " tokens, ended: " << story.reason << "\n";
  std::cout << "nats per token: " << model.evaluate(prompt + story.text).nats_per_token << "\n\n";

  rookery::Chat chat(model, {.most_tokens = 40, .sampling = {.seed = 1}});
  chat.ask("Who are you?", show);
  std::cout << "\n" << chat.messages().size() << " messages, " << chat.tokens() << " tokens\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 3) return run(argv[1], argv[2]);
    std::cerr << "usage: embed MODEL PROMPT\n";
    return 2;
  } catch (const rookery::Error& error) {
    std::cerr << "embed: " << error.what() << "\n";
    return 1;
  }
}
