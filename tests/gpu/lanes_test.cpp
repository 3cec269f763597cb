// SPDX-License-Identifier: Apache-2.0
#include "gpu/lanes.hpp"

#include "gpu/cluster_weights.hpp"
#include "tests/gpu/device.hpp"

namespace foretoken::gpu {
namespace {

// The rows of every lane in turn; REQUIREs that they follow each other.
int dealt(const lane_deal& deal, int& most, int& least) {
  int next = 0;
  for (int i = 0; i < deal.launches(); ++i) {
    const row_range here = deal.launch(i);
    REQUIRE(here.first == next);
    const int lanes = deal.lanes_of(here);
    REQUIRE(lanes <= deal.lanes);
    for (int l = 0; l < lanes; ++l) {
      const row_range own = part_of(here, l, lanes);
      REQUIRE(own.first == next);
      next = own.end;
      most = std::max(most, own.count());
      least = std::min(least, own.count());
    }
  }
  return next;
}

TEST_CASE("lanes: every row is dealt once, in order, and no lane has more than it takes") {
  for (const int of_lane : {8, 10}) {
    for (const int lanes : {1, 4, 7}) {
      for (int rows = 1; rows <= 300; ++rows) {
        CAPTURE(rows);
        int most = 0, least = rows;
        CHECK(dealt({rows, lanes, of_lane}, most, least) == rows);
        CHECK(most <= of_lane);
        CHECK(least >= 1);
      }
    }
  }
}

TEST_CASE("lanes: one row a lane while there are lanes, then evenly, also over two launches") {
  CHECK(lane_deal{7, 7, 8}.lanes_of({0, 7}) == 7);
  CHECK(lane_deal{56, 7, 8}.launches() == 1);
  const lane_deal two{64, 7, 8};
  CHECK(two.launches() == 2);
  CHECK(two.launch(0).count() == 32);
  CHECK(part_of(two.launch(1), 0, 7).count() == 4);
}

TEST_CASE(
    "lanes: fuller ones where that saves a launch and they hold the rows, else few rows, else "
    "none") {
  const auto all = [](row_range, int) { return true; };
  const auto most_of = [](int rows) {
    return [rows](row_range here, int lanes) { return (here.count() + lanes - 1) / lanes <= rows; };
  };
  CHECK(deal_rows(56, 7, 8, 10, all).rows_max == 8);
  CHECK(deal_rows(57, 7, 8, 10, all).launches() == 1);
  CHECK(deal_rows(70, 7, 8, 10, all).launches() == 1);
  CHECK(deal_rows(71, 7, 8, 10, all).rows_max == 8);
  CHECK(deal_rows(64, 7, 8, 10, most_of(8)).launches() == 2);
  CHECK(deal_rows(64, 7, 8, 10, most_of(4)).rows == 0);
  CHECK(deal_rows(128, 7, 8, 10, all).launches() == 2);
}

TEST_CASE("lanes: as many as the driver has room for, at most seven; else the general path") {
  CHECK(*lanes_from(7) == 7);
  CHECK(*lanes_from(2) == 2);
  CHECK(*lanes_from(8) == 7);
  for (const result<int>& said :
       {result<int>(0), result<int>(error{errc::device, "clusters at once: not supported"})}) {
    const auto refused = lanes_from(said);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == errc::unsupported);
  }
  const auto unasked = lanes_from(error{errc::device, "not supported"});
  CHECK(unasked.error().message.find("not supported") != std::string::npos);
  CHECK(lanes_from(error{errc::exhausted, "full"}).error().code == errc::exhausted);
}

// Three KV heads: pair 16, of row 5, is merged where pair 0 is, of row 0.
TEST_CASE("lanes: exactly the spans that one block merges fit, and not one more") {
  const cluster::limits most{8, 3, 32, 17, 0};
  std::vector<std::int32_t> positions(8, 8 * attention_span - 1);
  CHECK(lane_fits(most, positions));
  positions[0] = 9 * attention_span - 1;
  CHECK(lane_fits(most, positions));
  ++positions[0];
  CHECK_FALSE(lane_fits(most, positions));
  positions = {17 * attention_span - 1};
  CHECK(lane_fits(most, positions));
  ++positions[0];
  CHECK_FALSE(lane_fits(most, positions));
}

TEST_CASE("lanes: exactly the spans that the blocks attend to fit, and not one more") {
  const cluster::limits most{8, 2, 32, 123, 0};
  std::vector<std::int32_t> positions(8, 32 * attention_span - 1);
  CHECK(lane_fits(most, positions));
  ++positions[7];
  CHECK_FALSE(lane_fits(most, positions));
}

TEST_CASE("lanes: one row at least and no more than a lane takes") {
  const cluster::limits most{8, 3, 32, 17, 0};
  CHECK_FALSE(lane_fits(most, {}));
  CHECK(lane_fits(most, std::vector<std::int32_t>(8, 0)));
  CHECK_FALSE(lane_fits(most, std::vector<std::int32_t>(9, 0)));
  CHECK_FALSE(
      lane_fits(cluster::limits_of(cluster::model_shape::tiny, 1), std::vector<std::int32_t>{0}));
}

// The shape that is compiled for tests.
model::hyperparameters cluster_shape() {
  model::hyperparameters shape = test::small_shape();
  shape.width = 320;
  shape.head_dim = 64;
  shape.ffn = 768;
  shape.vocabulary = 2000;
  shape.ropes[0].frequency.clear();
  for (int i = 0; i < 32; ++i) {
    shape.ropes[0].frequency.push_back(std::exp(-0.1f * static_cast<float>(i)));
  }
  return shape;
}

// The second emulated device is of a kind with clusters and has room for none.
TEST_CASE("lanes: a part of a device without room for a cluster decodes on the general path") {
  test::made_model file(cluster_shape(), test::stored::q4_0);
  auto elsewhere = test::gpu_options();
  elsewhere.device = 1;
  const auto first = linked().prepare_weights(file, test::gpu_options(), {});
  const auto second = linked().prepare_weights(file, elsewhere, {});
  REQUIRE(first);
  REQUIRE(second);
  CHECK(linked().decode_path(**first).find("has no clusters") != std::string::npos);
  CHECK(linked().decode_path(**second) ==
        "the general path, because what there is of the device has no room for a cluster");
  CHECK((*second)->memory.bytes() == (*first)->memory.bytes());
  const auto planned = linked().plan_memory(file, elsewhere);
  CHECK(planned->weight_bytes > (*second)->memory.bytes());
  const auto text = file.tokens(20);
  const auto pages = test::pages_from(0, 2);
  test::gpu_device general(file), part(file, elsewhere);
  CHECK(part.read(text, pages, 7) == general.read(text, pages, 1));
}

}  // namespace
}  // namespace foretoken::gpu
