// The program: one file per verb, listed here.

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "cli/commands.h"

namespace {

using namespace rookery;

constexpr cli::Verb kVerbs[] = {cli::add_generate, cli::add_chat,           cli::add_train,
                                cli::add_data,     cli::add_tokenizer_verb, cli::add_eval,
                                cli::add_convert,  cli::add_init,           cli::add_info,
                                cli::add_logits,   cli::add_bench,          cli::add_check};

int run(int argc, char** argv) {
  CLI::App app{
      "Trains and runs RWKV language models.\n\nExample:\n"
      "  rookery train --data book.txt -o runs/book && rookery generate runs/book -p 'Once'"};
  app.name("rookery");
  app.set_version_flag("--version", "rookery " ROOKERY_VERSION);
  app.require_subcommand(1);
  app.failure_message([](const CLI::App* which, const CLI::Error& error) {
    const CLI::App* verb = which;
    while (!verb->get_subcommands().empty()) verb = verb->get_subcommands().front();
    std::string name = verb->get_name();
    for (const CLI::App* above = verb->get_parent(); above != nullptr;
         above = above->get_parent()) {
      name = above->get_name() + " " + name;
    }
    return std::string(error.what()) + "\nSee " + name + " --help\n";
  });
  std::vector<std::pair<CLI::App*, std::function<int()>>> verbs;
  for (const cli::Verb& add : kVerbs) {
    auto action = add(app);
    verbs.emplace_back(app.get_subcommands({}).back(), std::move(action));
  }
  // The library would only say that a subcommand is required.
  const CLI::App* above = &app;
  std::string path = app.get_name();
  for (int i = 1; i < argc && argv[i][0] != '-' && !above->get_subcommands({}).empty(); ++i) {
    const CLI::App* found = nullptr;
    std::string known;
    for (const CLI::App* verb : above->get_subcommands({})) {
      if (verb->get_name() == argv[i]) found = verb;
      known += (known.empty() ? "" : ", ") + verb->get_name();
    }
    if (found == nullptr) {
      std::fprintf(stderr, "There is no verb '%s': expected one of %s\nSee %s --help\n", argv[i],
                   known.c_str(), path.c_str());
      return 2;
    }
    above = found;
    path += " " + found->get_name();
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const bool asked = error.get_exit_code() == 0;  // --help, --version
    app.exit(error);
    return asked ? 0 : 2;
  }
  for (const auto& [verb, action] : verbs) {
    if (verb->parsed()) return action();
  }
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  // A closed pipe is an error to report, or the end of a stream nobody reads; not a death without a
  // word.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // nor is a limit on the size of files
  try {
    const int code = run(argc, argv);
    // What is still to be written can fail, too; nobody reading is no failure.
    errno = 0;
    if (std::fflush(stdout) == 0 || errno == EPIPE) return code;
    std::fprintf(stderr, "rookery: cannot write to standard output (%s): is the disk full?\n",
                 std::strerror(errno));
    return 1;
  } catch (const CLI::Error& error) {  // a flag that a verb found wrong after parsing
    std::fprintf(stderr, "rookery: %s\n", error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "rookery: out of memory: use a smaller model, batch or context\n");
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rookery: %s\n", error.what());
    return 1;
  }
}
