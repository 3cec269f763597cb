// SPDX-License-Identifier: Apache-2.0
#include "scheduler/device_plans.hpp"

#include <map>
#include <numeric>
#include <set>

#include "doctest/doctest.h"
#include "tests/scheduler/sequences.hpp"

using namespace foretoken;
using namespace foretoken::scheduler;
using namespace foretoken::scheduler::testing;

namespace {

std::set<int> in(const std::optional<model::micro_batch>& batch) {
  std::set<int> out;
  if (!batch) return out;
  for (const auto& part : batch->slices) out.insert(static_cast<int>(part.sequence));
  return out;
}

struct two {
  two() {
    plans.device_up(0);
    plans.device_up(1);
  }
  void add(int id, int prompt, int most, int from, sequence_id beside = {}) {
    REQUIRE(plans.add(make(id, prompt, most, from), beside));
  }
  // Everything that can be computed on a device, and the tokens of each sequence so far.
  void run(int device, int steps_max = 1000) {
    for (int i = 0; i < steps_max; ++i) {
      const auto batch = plans.plan(device);
      if (!batch) return;
      for (const auto& news : plans.complete(device, answer(*batch))) {
        if (!news.next) continue;
        auto& of = tokens[static_cast<int>(news.id)];
        CHECK(news.next->id == 7000 + of);
        ++of;
      }
    }
  }

  cache::pools pools{std::vector<int>{64, 64}};
  device_plans plans{{}, pools};
  std::map<int, int> tokens;
};

}  // namespace

TEST_CASE("device_plans: a sequence goes where the least work is predicted") {
  two t;
  t.add(1, 100, 10, 1000);
  t.add(2, 50, 1, 2000);
  t.add(3, 50, 1, 3000);
  t.add(4, 200, 1, 4000);  // 180 on the first, 116 on the second
  CHECK(in(t.plans.plan(0)) == std::set<int>{1});
  CHECK(in(t.plans.plan(1)) == std::set<int>{2, 3, 4});
}

TEST_CASE("device_plans: work that is done or ended counts no more") {
  two t;
  t.add(1, 100, 10, 1000);  // 180
  t.add(2, 150, 1, 2000);   // 158
  t.run(0, 5);              // 40 are left on the first
  t.add(3, 20, 1, 3000);
  CHECK(in(t.plans.plan(0)) == std::set<int>{1, 3});
  t.plans.end(sequence_id{2});
  t.add(4, 20, 1, 4000);
  CHECK(in(t.plans.plan(1)) == std::set<int>{4});
}

TEST_CASE("device_plans: a cached prefix attracts, and so does a sequence of the same prompt") {
  two t;
  t.add(1, 64, 1, 1000);
  t.run(0);
  t.plans.end(sequence_id{1});
  t.add(2, 10, 1, 2000);  // work for the first
  t.add(3, 64, 1, 1000);  // 18 and all cached, against 64
  CHECK(in(t.plans.plan(0)) == std::set<int>{2, 3});
  t.add(4, 40, 1, 4000);  // the second
  t.add(5, 40, 1, 4000, sequence_id{4});
  t.run(1);
  CHECK(t.tokens[4] == 1);
  CHECK(t.tokens[5] == 1);
}

TEST_CASE("device_plans: sequences of a lost device move and go on where they were") {
  two t;
  for (int i = 1; i <= 8; ++i) t.add(i, 20, 12, 1000 * i);
  t.run(0, 4);
  t.run(1, 6);
  const auto lost = t.plans.plan(1);
  REQUIRE(lost);
  CHECK(t.plans.device_lost(1).size() == lost->slices.size());
  CHECK(t.pools.of(1).counts().used == 0);
  t.run(0);
  for (int i = 1; i <= 8; ++i) {
    CHECK(t.tokens[i] == 12);
    t.plans.end(sequence_id{static_cast<std::uint64_t>(i)});
  }
  CHECK(t.pools.counts().used == 0);
  t.plans.device_up(1);  // it takes new ones again
  t.add(9, 20, 1, 9000);
  t.add(10, 20, 1, 10000);
  CHECK(in(t.plans.plan(1)) == std::set<int>{10});
}

TEST_CASE("device_plans: without any device sequences wait for whichever comes first") {
  two t;
  t.plans.device_lost(0);
  for (int i = 1; i <= 4; ++i) t.add(i, 20, 3, 1000 * i);
  t.plans.device_lost(1);
  CHECK_FALSE(t.plans.any_up());
  t.add(5, 20, 3, 5000);
  CHECK(t.plans.stats().waiting == 5);
  t.plans.device_up(0);
  CHECK(in(t.plans.plan(0)) == std::set<int>{1, 2, 3, 4, 5});
}

TEST_CASE("device_plans: who moves keeps its age") {
  options limits;
  limits.sequences_max = 1;
  cache::pools pools(std::vector<int>{64, 64});
  device_plans plans(limits, pools);
  plans.device_up(0);
  plans.device_up(1);
  for (int i = 1; i <= 4; ++i) REQUIRE(plans.add(make(i, 20, 1, 1000 * i)));  // by turns
  plans.device_lost(0);
  plans.device_up(1);
  std::vector<int> order;
  for (int i = 0; i < 4; ++i) {
    const auto batch = plans.plan(1);
    REQUIRE(batch);
    order.push_back(*in(batch).begin());
    plans.complete(1, answer(*batch));
    plans.end(sequence_id{static_cast<std::uint64_t>(order.back())});
  }
  CHECK(order == std::vector<int>{1, 2, 3, 4});
}
