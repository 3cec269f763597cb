// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile/program.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

namespace foretoken::test {
namespace {

using temporary = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

std::string content(std::FILE* file) {
  std::string text;
  std::rewind(file);
  char buffer[4096];
  for (std::size_t got = 0; (got = std::fread(buffer, 1, sizeof buffer, file)) > 0;) {
    text.append(buffer, got);
  }
  return text;
}

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

}  // namespace

ended_program run_program(const std::string& program, const std::vector<std::string>& words) {
  const temporary out(std::tmpfile(), std::fclose), err(std::tmpfile(), std::fclose);
  if (!out || !err) return {};
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const auto& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {  // only calls that are safe after a fork of several threads
    const rlimit minute{60, 60};
    ::setrlimit(RLIMIT_CPU, &minute);
    ::dup2(::fileno(out.get()), STDOUT_FILENO);
    ::dup2(::fileno(err.get()), STDERR_FILENO);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  int status = 0;
  rusage used{};
  if (child < 0 || ::wait4(child, &status, 0, &used) != child) return {};
  ended_program ended;
  if (WIFEXITED(status)) ended.status = WEXITSTATUS(status);
  ended.cpu_seconds = seconds(used.ru_utime) + seconds(used.ru_stime);
  ended.out = content(out.get());
  ended.err = content(err.get());
  return ended;
}

double refusal_seconds_max() noexcept {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return 10;
#else
  return 1;
#endif
}

}  // namespace foretoken::test
