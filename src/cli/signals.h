// SIGINT and SIGTERM: work ends at the next good place, with what it has.
#pragma once

namespace rookery::cli {

// Has SIGINT and SIGTERM handled, by the main thread, which calls this.
void handle_signals(void (*handler)(int));

// From now on stop_requested() says whether SIGINT or SIGTERM came; the second one ends the program
// at once.
void catch_signals();
bool stop_requested();

}  // namespace rookery::cli
