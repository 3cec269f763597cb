// SPDX-License-Identifier: Apache-2.0
#pragma once
// An open-loop load on a running server over TCP lines.

#include <string>

#include <CLI/CLI.hpp>

namespace foretoken::tools {

struct load_options {
  std::string server;  // HOST:PORT of the TCP port
  int clients = 8;     // connections
  double rate = 10;    // requests a second over all connections
  double seconds = 1;  // how long requests are sent
  int max_tokens = 16;
  std::string prompt = "The weather today is";
  int logprobs = -1;      // alternatives asked for; -1 = none
  bool distinct = false;  // each prompt begins with its own number: nothing of it is cached
  bool json = false;
};

void add_load_flags(CLI::App& command, load_options& into);
int run_load(const load_options& chosen);

}  // namespace foretoken::tools
