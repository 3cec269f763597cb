// SPDX-License-Identifier: Apache-2.0
#include "gpu/weights.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "gpu/cluster_weights.hpp"
#include "gpu/each_block.hpp"
#include "gpu/weight_rows.hpp"

namespace foretoken::gpu {
namespace {

using model::tensor;

constexpr int block_rows = 1024;  // rows packed at once: 1 to 10 MiB of staging

std::vector<float> floats(const tensor& source, bool plus_one = false) {
  if (source.empty()) return {};
  std::vector<float> out(static_cast<std::size_t>(source.rows * source.columns));
  model::dequantise(source, 0, source.rows, out.data());
  if (plus_one) {
    for (float& value : out) value += 1.0f;
  }
  return out;
}

// Room above a row's residual stream times a norm's weights in f16, in powers of two: families
// known for features of 10^4 and more, and gemma, whose weights are large as well.
int range_of(model::architecture arch) {
  switch (arch) {
    case model::architecture::gemma3: return 6;
    case model::architecture::qwen2:
    case model::architecture::qwen3: return 4;
    default: return 0;
  }
}

class loader {
 public:
  loader(const model::model_file& file,
         const options& chosen,
         int context,
         arena& space,
         const model::load_progress* progress = nullptr)
      : file_(file), chosen_(chosen), context_(context), space_(space), progress_(progress) {}

  void fill(weights& out) {
    const auto& from = file_.tensors;
    out.embedding = matrix(plain_source(from.embedding), {});
    const bool tied = from.head.bytes.data() == from.embedding.bytes.data();
    out.head = tied ? out.embedding : matrix(plain_source(from.head), {});
    if (!from.positions.empty()) out.positions = matrix(plain_source(from.positions), {});
    out.final_norm = norm(from.final_norm, from.final_norm_bias);
    for (const auto& rope : file_.shape.ropes) out.ropes.push_back(table(rope));
    for (std::size_t i = 0; i < from.layers.size(); ++i) {
      const int rope = file_.shape.attention[i].rope;
      const std::size_t pairs =
          rope < 0 ? 0 : file_.shape.ropes[static_cast<std::size_t>(rope)].frequency.size();
      out.layers.push_back(layer(from.layers[i], out.padded, static_cast<int>(pairs)));
    }
  }
  void fill_clusters(weights& out, const result<cluster_choice>& choice) {
    if (!choice) {
      out.decode_path = "the general path, because " + choice.error().message;
      return;
    }
    out.decode_path =
        "clusters of 16 multiprocessors, up to " + std::to_string(choice->lanes) + " at once";
    out.clusters = load_cluster_weights(file_, *choice, out, space_);
  }

 private:
  norm_parameters norm(const tensor& weight, const tensor& bias) {
    if (weight.empty()) return {};
    norm_parameters out;
    out.weight = space_.floats(floats(weight, file_.tensors.norm_plus_one));
    out.bias = space_.floats(floats(bias));
    out.epsilon = file_.shape.norm_epsilon;
    out.kind = file_.shape.norm;
    out.range = range_of(file_.shape.arch);
    return out;
  }
  // The norms inside a layer after attention and feed-forward are RMS norms everywhere.
  norm_parameters post_norm(const tensor& weight) {
    norm_parameters out = norm(weight, {});
    out.kind = model::norm_kind::rms;
    return out;
  }

  rope_table table(const model::rope_parameters& rope) {
    const std::size_t pairs = rope.frequency.size();
    rope_table out;
    out.pairs = padded_pairs(pairs);
    const auto stride = static_cast<std::size_t>(2 * out.pairs);
    if (space_.counting()) {
      space_.take(static_cast<std::size_t>(context_) * stride * sizeof(float));
      return out;
    }
    std::vector<float> values(static_cast<std::size_t>(context_) * stride);
    for (int p = 0; p < context_; ++p) {
      float* row = values.data() + static_cast<std::size_t>(p) * stride;
      for (std::size_t i = 0; i < pairs; ++i) {  // in double, as on the CPU
        const double angle = static_cast<double>(p) * static_cast<double>(rope.frequency[i]);
        row[i] = static_cast<float>(std::cos(angle));
        row[static_cast<std::size_t>(out.pairs) + i] = static_cast<float>(std::sin(angle));
      }
    }
    out.angles = space_.floats(values);
    return out;
  }

  packed_matrix matrix(const matrix_source& source, const std::vector<float>& bias) {
    packed_matrix out;
    out.rows = static_cast<int>(source.rows.size());
    out.columns = source.columns();
    out.form = chosen_.weights == weight_mode::file ? kept_form(source) : weight_form::f16;
    const std::size_t code_bytes = packed_code_bytes(out.form, out.rows, out.columns);
    const std::size_t scale_bytes = packed_scale_bytes(out.form, out.rows, out.columns);
    std::byte* codes = space_.take(code_bytes);
    std::byte* scales = scale_bytes > 0 ? space_.take(scale_bytes) : nullptr;
    const bool half = out.form == weight_form::f16;
    std::byte* row_scales =
        half ? space_.take(static_cast<std::size_t>(out.rows) * sizeof(float)) : nullptr;
    out.bias = space_.floats(bias);
    if (space_.counting()) return out;
    out.codes = codes;
    out.scales = reinterpret_cast<const std::uint32_t*>(scales);
    std::vector<std::byte> packed(code_bytes);
    std::vector<std::uint32_t> packed_scales(scale_bytes / sizeof(std::uint32_t));
    std::vector<float> factors(half ? source.rows.size() : 0, 1.0f);
    const auto rows = static_cast<std::size_t>(out.rows);
    each_block(out.rows, block_rows, [&](int first, int count) {
      const auto begin = static_cast<std::size_t>(first);
      std::byte* to = packed.data() + code_bytes / rows * begin;
      if (half) return pack_rows_f16(source, first, count, to, factors.data() + begin);
      pack_rows_kept(source, out.form, first, count, to,
                     packed_scales.data() + packed_scales.size() / rows * begin);
    });
    space_.put(codes, packed.data(), code_bytes);
    if (scale_bytes > 0) space_.put(scales, packed_scales.data(), scale_bytes);
    if (std::ranges::any_of(factors, [](float f) { return f != 1.0f; })) {
      space_.put(row_scales, factors.data(), factors.size() * sizeof(float));
      out.row_scale = reinterpret_cast<const float*>(row_scales);
    }
    report(source);
    return out;
  }

  void report(const matrix_source& source) {
    for (const auto& row : source.rows) {
      if (row.part != nullptr && row.index == 0) done_ += row.part->bytes.size();
    }
    const std::uint64_t total = std::max<std::uint64_t>(file_.file_bytes, 1);
    if (progress_ != nullptr && *progress_) (*progress_)(std::min(done_, total), total);
  }

  layer_weights layer(const model::layer_tensors& from,
                      const model::hyperparameters& padded,
                      int pairs) {
    const bool plus_one = file_.tensors.norm_plus_one;
    layer_weights out;
    out.attention_norm = norm(from.attention_norm, from.attention_norm_bias);
    out.ffn_norm = norm(from.ffn_norm, from.ffn_norm_bias);
    out.attention_post_norm = post_norm(from.attention_post_norm);
    out.ffn_post_norm = post_norm(from.ffn_post_norm);
    out.q_norm = space_.floats(floats(from.q_norm, plus_one));
    out.k_norm = space_.floats(floats(from.k_norm, plus_one));

    const matrix_source qkv = qkv_source(from.q, from.k, from.v, file_.shape, padded, pairs);
    std::vector<float> bias = ordered_bias(qkv, from.q_bias, from.q, {});
    bias = ordered_bias(qkv, from.k_bias, from.k, std::move(bias));
    bias = ordered_bias(qkv, from.v_bias, from.v, std::move(bias));
    out.qkv = matrix(qkv, bias);

    matrix_source o = plain_source(from.o);
    o.groups = file_.shape.heads;
    o.from = file_.shape.head_dim;
    o.to = padded.head_dim;
    out.o = matrix(o, ordered_bias(o, from.o_bias, from.o, {}));

    if (from.gate.empty()) {
      matrix_source up = plain_source(from.up);
      up.rows.resize(static_cast<std::size_t>((padded.ffn + 15) / 16 * 16));
      out.gate_up = matrix(up, ordered_bias(up, from.up_bias, from.up, {}));
    } else {
      out.gate_up = matrix(gate_up_source(from.gate, from.up, padded.ffn), {});
    }
    matrix_source down = plain_source(from.down);
    down.to = padded.ffn;
    out.down = matrix(down, ordered_bias(down, from.down_bias, from.down, {}));
    return out;
  }

  const model::model_file& file_;
  const options& chosen_;
  int context_;
  arena& space_;
  const model::load_progress* progress_;
  std::uint64_t done_ = 0;
};

result<std::shared_ptr<weights>> bare(const model::model_file& file,
                                      const options& chosen,
                                      int context) {
  auto padded = padded_shape(file.shape);
  if (!padded) return std::move(padded).error();
  auto out = std::make_shared<weights>();
  out->shape = file.shape;
  out->padded = *std::move(padded);
  out->shape.context = out->padded.context = context;
  out->ordinal = chosen.device;
  return out;
}

}  // namespace

int padded_pairs(std::size_t pairs) noexcept {
  return static_cast<int>((pairs + 7) / 8 * 8);
}

result<model::hyperparameters> padded_shape(const model::hyperparameters& shape) {
  if (shape.kv_heads < 1 || shape.heads % shape.kv_heads != 0) {
    return corrupt("kv_heads", "does not divide the number of heads");
  }
  if (shape.width % 8 != 0) return unsupported("width", "is no multiple of 8");
  model::hyperparameters out = shape;
  int values = shape.head_dim;
  for (const auto& rope : shape.ropes) {
    const int rest = shape.head_dim - 2 * static_cast<int>(rope.frequency.size());
    values = std::max(values, 2 * padded_pairs(rope.frequency.size()) + rest);
  }
  out.head_dim = (values + 15) / 16 * 16;
  out.ffn = (shape.ffn + 7) / 8 * 8;
  if (out.head_dim > 256) {
    return unsupported("head_dim", "heads of " + std::to_string(shape.head_dim) + " values");
  }
  if (shape.qk_norm && out.head_dim != shape.head_dim) {
    return unsupported("head_dim", "norms of heads of " + std::to_string(shape.head_dim) +
                                       " values; a multiple of 16 is needed");
  }
  return out;
}

result<std::uint64_t> weight_bytes_of(const model::model_file& file,
                                      const options& chosen,
                                      int context) {
  auto counted = bare(file, chosen, context);
  if (!counted) return std::move(counted).error();
  arena space;
  loader counter(file, chosen, context, space);
  counter.fill(**counted);
  counter.fill_clusters(**counted, clusters_by_kind(file, chosen, **counted));
  return space.used();
}

result<std::shared_ptr<const weights>> load_weights(const model::model_file& file,
                                                    const options& chosen,
                                                    int context,
                                                    const model::load_progress& progress) {
  auto counted = bare(file, chosen, context);
  if (!counted) return std::move(counted).error();
  arena sizes;
  loader counter(file, chosen, context, sizes);
  counter.fill(**counted);
  const auto clusters = clusters_there(file, chosen, **counted);
  if (!clusters && clusters.error().code == errc::exhausted) return clusters.error();
  counter.fill_clusters(**counted, clusters);
  auto memory = runtime::buffer::take(runtime::place::device, sizes.used());
  if (!memory) return std::move(memory).error();
  auto queue = runtime::stream::make();
  if (!queue) return std::move(queue).error();
  auto out = bare(file, chosen, context);
  if (!out) return std::move(out).error();
  (*out)->memory = *std::move(memory);
  arena space((*out)->memory.data(), &*queue);
  loader filler(file, chosen, context, space, &progress);
  filler.fill(**out);
  filler.fill_clusters(**out, clusters);
  FORETOKEN_TRY(space.state());
  return std::shared_ptr<const weights>(*std::move(out));
}

}  // namespace foretoken::gpu
