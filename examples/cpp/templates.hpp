// The template memory: what the target has looked like, bounded however long the video is.
#pragma once

#include <cstdint>
#include <set>
#include <utility>

#include "model.hpp"

namespace fartrack {

struct Template {
    int frame;
    bool pruned = false;  // whether the best of its tokens were chosen
    KVCache cache;
    std::vector<double> target, context;  // what it looks like in the box and around it, of length 1

    Template(int frame, KVCache kv_cache, const Box& corners) : frame(frame), cache(std::move(kv_cache)) {
        const auto [layers, heads, tokens, channels] = cache.shape;
        const float* values = cache.data.data() + std::min<int64_t>(5, layers - 1) * heads * tokens * channels;
        const int side = int(std::lround(std::sqrt(double(tokens))));
        auto covered = [&](int axis, int64_t at) {  // how much of a row or column of tokens the box covers
            double low = float(corners[axis]), high = float(corners[axis + 2]);
            return std::max(std::min(high, (at + 1.0) / side) - std::max(low, double(at) / side), 0.0) * side;
        };
        target.assign(heads * channels, 0), context = target;
        for (int64_t token = 0; token < tokens; token++) {
            const double share = covered(1, token / side) * covered(0, token % side);
            for (int64_t i = 0; i < heads * channels; i++) {
                const float value = values[(i / channels * tokens + token) * channels + i % channels];
                target[i] += share * value, context[i] += (1 - share) * value;
            }
        }
        for (auto* vector : {&target, &context}) {
            const double length = std::max(std::sqrt(dot(*vector, *vector)), 1e-9);
            for (double& value : *vector) value /= length;
        }
    }

    /** How much another template's target looks like this one's: 1 the same, 0 rather like the context. */
    double likeness(const Template& other) const {
        const double contrast = dot(target, other.target) - dot(context, other.target);
        return contrast / std::max(1 - dot(target, context), 1e-3);
    }

    /** Keep the share of tokens with the best of these scores for good. */
    void prune(const float* scores, double retention) {
        const auto [layers, heads, tokens, channels] = cache.shape;
        std::vector<int64_t> keep(tokens);
        std::iota(keep.begin(), keep.end(), 0);
        std::stable_sort(keep.begin(), keep.end(), [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
        keep.resize(std::max<size_t>(size_t(std::nearbyint(retention * double(tokens))), 1));
        std::sort(keep.begin(), keep.end());
        select(keep), pruned = true;
    }

    /** Of all tokens, keep those of the square of `side` a side in the middle. */
    void center(int side) {
        const int64_t grid = std::lround(std::sqrt(double(cache.shape[2]))), edge = (grid - side) / 2;
        std::vector<int64_t> keep;
        for (int64_t row = edge; row < grid - edge; row++)
            for (int64_t column = edge; column < grid - edge; column++) keep.push_back(row * grid + column);
        if (edge > 0) select(keep);
    }

    /** Keep these tokens alone. */
    void select(const std::vector<int64_t>& keep) {
        const auto [layers, heads, tokens, channels] = cache.shape;
        auto chosen = [&, tokens = tokens](const std::vector<float>& data, int64_t leads, int64_t width) {
            std::vector<float> kept;
            for (int64_t lead = 0; lead < leads; lead++)
                for (int64_t token : keep) {
                    const auto begin = data.begin() + (lead * tokens + token) * width;
                    kept.insert(kept.end(), begin, begin + width);
                }
            return kept;
        };
        cache.data = chosen(cache.data, layers * heads, channels);
        if (!cache.rest.empty()) cache.rest = chosen(cache.rest, 1, heads * channels);
        cache.shape[2] = int64_t(keep.size());
    }

    static double dot(const std::vector<double>& a, const std::vector<double>& b) {
        return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
    }
};

class TemplateMemory {
  public:
    size_t slots = 1, capacity = 2;
    std::vector<Template> history;  // in order of time; the first is never given up

    void add(Template&& newest) {
        history.push_back(std::move(newest));
        if (history.size() > capacity) {  // the one that leaves the smallest gap in time is given up
            size_t least = 1;
            auto gap = [&](size_t i) { return history[i + 1].frame - history[i - 1].frame; };
            for (size_t i = 2; i + 1 < history.size(); i++)
                if (gap(i) < gap(least)) least = i;
            history.erase(history.begin() + least);
        }
        choose();
    }

    void forget_from(int frame) {  // the first always stays
        while (history.size() > 1 && history.back().frame >= frame) history.pop_back();
        choose();
    }

    double likeness(const Template& other) const {
        double best = -1e9;
        for (size_t place : chosen_) best = std::max(best, history[place].likeness(other));
        return best;
    }

    void finish(Model& model) {  // what the last frame began; before a search
        for (auto& each : history)
            if (!each.cache.rest.empty()) model.finish_template(each.cache);
        if (joined_.data.empty()) join();
    }

    const KVCache& cache() const { return joined_; }

    bool undecided() const {  // of a chosen template the best tokens have not been chosen yet
        return std::any_of(chosen_.begin(), chosen_.end(), [&](size_t place) { return !history[place].pruned; });
    }

    void prune(const std::vector<float>& scores, double retention) {  // of all chosen templates' tokens, in order
        const float* own = scores.data();
        for (size_t place : chosen_) {
            const auto count = history[place].cache.shape[2];
            if (!history[place].pruned) history[place].prune(own, retention);
            own += count;
        }
        join();
    }

  private:
    std::set<size_t> chosen_;
    KVCache joined_;

    void choose() {  // the first, the newest, and those nearest to a linear spread of frames between
        const size_t last = slots > 1 ? history.size() - 1 : 0;
        const double first = history[0].frame, step = slots > 1 ? (history[last].frame - first) / (slots - 1.0) : 0;
        chosen_ = {0, last};
        for (size_t slot = 1; slot + 1 < slots; slot++) {
            double least = 1e18;
            size_t best = 0;
            for (size_t place = 0; place < history.size(); place++) {
                const double distance = std::abs(history[place].frame - (slot * step + first));
                if (!chosen_.count(place) && distance < least) least = distance, best = place;
            }
            chosen_.insert(best);  // 0, which is there already, where none was free
        }
        joined_.data.clear();
    }

    void join() {  // the caches of the chosen ones
        joined_ = {history[0].cache.shape, {}};
        const auto [layers, heads, _, channels] = joined_.shape;
        for (int64_t lead = 0; lead < layers * heads; lead++)
            for (size_t place : chosen_) {
                const auto& own = history[place].cache;
                const auto begin = own.data.begin() + lead * own.shape[2] * channels;
                joined_.data.insert(joined_.data.end(), begin, begin + own.shape[2] * channels);
            }
        joined_.shape[2] = int64_t(joined_.data.size()) / (layers * heads * channels);
    }
};

}  // namespace fartrack
