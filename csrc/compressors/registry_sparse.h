// The sparse family's part of the registry: compressors from the arguments of a spec, decoders from a format.
#pragma once

#include "common/expression.h"
#include "compressors/budget.h"
#include "compressors/compressor.h"

namespace tsq {

CompressorPtr make_bernoulli(std::string_view text, const Value& call);
CompressorPtr make_permk(std::string_view text, const Value& call);
CompressorPtr make_randk(std::string_view text, const Value& call);
CompressorPtr make_smooth_bernoulli(std::string_view text, const Value& call);
CompressorPtr make_sparse_sign(std::string_view text, const Value& call);
CompressorPtr make_stochastic_sparsifier(std::string_view text, const Value& call);
CompressorPtr make_topk(std::string_view text, const Value& call);

/// budget, ratio, bits: what of them is given.
Budget take_budget(Arguments& arguments);

/// The decoder of any vector of codec 6, 7 or 8.
CompressorPtr sparse_decoder_for(const wire::Format& format);

}  // namespace tsq
