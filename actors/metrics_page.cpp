// SPDX-License-Identifier: Apache-2.0
#include "actors/metrics_page.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <vector>

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

namespace foretoken::actors {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// "a=\"x\",b=\"y\"" as the table of base/counters.hpp writes it; one label a metric is all it uses.
std::vector<ClientMetric::Label> parse_labels(const std::string& text) {
  const auto equals = text.find('=');
  if (equals == std::string::npos) return {};
  ClientMetric::Label label;
  label.name = text.substr(0, equals);
  label.value = text.substr(equals + 2, text.size() - equals - 3);
  return {label};
}

class page {
 public:
  void add(const char* name, const char* labels, const char* help, MetricType type, double value) {
    ClientMetric metric;
    metric.label = parse_labels(labels);
    if (type == MetricType::Counter) metric.counter.value = value;
    if (type == MetricType::Gauge) metric.gauge.value = value;
    family(name, help, type).metric.push_back(std::move(metric));
  }

  void add(const char* name, const char* help, const histogram& values) {
    ClientMetric metric;
    std::uint64_t cumulative = 0;
    for (std::size_t i = 0; i <= values.edge_count(); ++i) {
      cumulative += values.bucket(i);
      const double edge =
          i < values.edge_count() ? values.edge(i) : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({cumulative, edge});
    }
    metric.histogram.sample_count = cumulative;
    metric.histogram.sample_sum = values.sum();
    family(name, help, MetricType::Histogram).metric.push_back(std::move(metric));
  }

  std::string text() const { return prometheus::TextSerializer().Serialize(families_); }

  MetricFamily& family(const char* name, const char* help, MetricType type) {
    const auto [at, added] = index_.try_emplace(name, families_.size());
    if (added) {
      families_.emplace_back();
      families_.back().name = name;
      families_.back().help = help;
      families_.back().type = type;
    }
    return families_[at->second];
  }

 private:
  std::vector<MetricFamily> families_;
  std::map<std::string, std::size_t> index_;
};

double boot_time_seconds() {
  std::ifstream file("/proc/stat");
  for (std::string word; file >> word;) {
    if (word == "btime") {
      double value = 0;
      file >> value;
      return value;
    }
  }
  return 0;
}

}  // namespace

process_sample sample_process() {
  process_sample sample;
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto close = text.rfind(')');  // the program's name may hold anything
  std::istringstream fields(close == std::string::npos ? "" : text.substr(close + 1));
  std::vector<std::string> parts;
  for (std::string part; fields >> part;) parts.push_back(part);
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  if (parts.size() > 21) {
    sample.cpu_seconds = (std::stod(parts[11]) + std::stod(parts[12])) / ticks;
    sample.threads = std::stod(parts[17]);
    sample.start_time_seconds = boot_time_seconds() + std::stod(parts[19]) / ticks;
    sample.virtual_bytes = std::stod(parts[20]);
    sample.resident_bytes = std::stod(parts[21]) * static_cast<double>(sysconf(_SC_PAGESIZE));
  }
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ignored)) {
    static_cast<void>(entry);
    sample.open_fds += 1;
  }
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) sample.max_fds = static_cast<double>(limit.rlim_cur);
  return sample;
}

std::string render_metrics(const counters& values,
                           const process_sample& process,
                           const what_runs& here) {
  page out;
  ClientMetric build;
  build.label = {{"version", FORETOKEN_VERSION}, {"backend", here.backend}, {"model", here.model}};
  build.gauge.value = 1;
  out.family("foretoken_build_info", "What runs here", MetricType::Gauge).metric.push_back(build);
#define X(member, name, labels, help) \
  out.add(name, labels, help, MetricType::Counter, static_cast<double>(values.member.value()));
  FORETOKEN_COUNTERS(X)
#undef X
#define X(member, name, labels, help) \
  out.add(name, labels, help, MetricType::Gauge, static_cast<double>(values.member.value()));
  FORETOKEN_GAUGES(X)
#undef X
#define X(member, name, help, edges) out.add(name, help, values.member);
  FORETOKEN_HISTOGRAMS(X)
#undef X
  const auto add = [&](const char* name, const char* help, MetricType type, double value) {
    out.add(name, "", help, type, value);
  };
  add("process_cpu_seconds_total", "User and system CPU time", MetricType::Counter,
      process.cpu_seconds);
  add("process_start_time_seconds", "Start, Unix time", MetricType::Gauge,
      process.start_time_seconds);
  add("process_resident_memory_bytes", "Resident memory", MetricType::Gauge,
      process.resident_bytes);
  add("process_virtual_memory_bytes", "Virtual memory", MetricType::Gauge, process.virtual_bytes);
  add("process_open_fds", "Open file descriptors", MetricType::Gauge, process.open_fds);
  add("process_max_fds", "Most file descriptors allowed", MetricType::Gauge, process.max_fds);
  add("process_threads", "Threads", MetricType::Gauge, process.threads);
  return out.text();
}

}  // namespace foretoken::actors
