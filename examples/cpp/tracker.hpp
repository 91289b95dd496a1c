// The tracking loop: a frame in, a track out. docs/loop.md explains it; names are those of src/fartrack/tracking/.
#pragma once

#include <optional>

#include "distractors.hpp"
#include "recovery.hpp"
#include "templates.hpp"

namespace fartrack {

struct Track {
    Box box;
    double score;
    Status state;
};

/** Follows one target through frames of one size. */
class Tracker {
  public:
    explicit Tracker(Model& model) : model_(model), settings_(model.settings) {}

    Track init(const Image& frame, const Box& box) {
        const auto [x, y, w, h] = box;
        if (!(w > 0 && h > 0 && x < frame.width && y < frame.height && x + w > 0 && y + h > 0))
            throw std::runtime_error("The box has no area or lies outside of the frame.");
        frame_ = 0, score_ = 1, told_ = Status::tracking, agreed_.reset(), width_ = frame.width, height_ = frame.height;
        memory_.slots = size_t(setting("templates")), memory_.capacity = size_t(setting("capacity"));
        memory_.history.clear();
        memory_.add(take_template(frame, box, 0));
        trajectory_.assign(std::max(model_.trajectory, 1), box);
        recovery_ = {box}, thumbnail_ = thumbnail(frame), scene_ = Scene(frame, box);
        return {clip_box(box, frame.width, frame.height), 1, Status::tracking};
    }

    Track update(const Image& frame) {
        if (frame.width != width_ || frame.height != height_) throw std::runtime_error("Frames must have one size.");
        frame_++;
        memory_.finish(model_);
        const Recovery before = recovery_;
        const bool seeking = before.seeking(), recovers = setting("lost_score") > 0, known = memory_.history.size() > 1;
        const bool checked = setting("agreement") > 0 && known;
        auto on_time = [&](int frame) {
            return setting("templates") > 1 && frame - memory_.history.back().frame >= setting("interval");
        };
        // Whether the first template is asked alone: one frame before a template is due.
        const bool sure = before.status == Status::tracking && score_ >= setting("template_score");
        const bool checks = checked && sure && !agreed_.value_or(false) && on_time(frame_ + 1);

        // What the network is shown, and what it finds: of a lost target, the better of two windows.
        Size shown{model_.search_size, model_.search_size}, usual = shown;
        std::vector<Crop> windows;
        std::vector<int64_t> tokens(4 * model_.trajectory, NO_TRAJECTORY);
        if (seeking) {
            windows = seek(before.sure, frame, model_.search_factor, before.turn);
        } else {
            windows = {Crop::around(trajectory_.back(), model_.search_factor)};
            for (size_t i = 0; i < tokens.size(); i++)
                tokens[i] = encode(windows[0].to_crop(trajectory_[i / 4])[i % 4]);
            shown = usual = shown_of(windows[0]);
            const int wide = least_side(agreed_ ? 1 : 0.7, model_.search_size);
            if (checks) shown = {std::max(usual.width, wide), std::max(usual.height, wide)};
        }
        int side = std::max(shown.width, shown.height);
        std::vector<Pixels> crops;
        for (const Crop& window : windows)
            crops.push_back(window.center(double(side) / model_.search_size).extract(frame, side));
        size_t best = 0;
        auto first_alone = [&] {
            return model_.search({center_of(crops[best], side, shown)}, shown, tokens, memory_.history[0].cache)[0];
        };
        auto agree = [&](const Box& a, const Box& b) { return overlap(a, b) >= setting("agreement"); };
        auto stays = [&](const Box& corners) { return agree(corners, windows[best].to_crop(trajectory_.back())); };
        Found found;
        std::optional<Found> alone;
        if (checks) found = *(alone = first_alone());
        const bool confirmed = checks && found.score >= setting("template_score") && stays(found.corners);
        if (!confirmed) {
            if (checks) {
                const int least = std::max(usual.width, usual.height);
                crops[0] = center_of(crops[0], side, {least, least}), side = least, shown = usual;
            }
            std::vector<float> scores;
            const bool scored = setting("retention") < 1 && memory_.undecided();
            std::vector<Pixels> centers;
            for (const Pixels& crop : crops) centers.push_back(center_of(crop, side, shown));
            const auto all = model_.search(centers, shown, tokens, memory_.cache(), scored ? &scores : nullptr);
            if (scored) memory_.prune(scores, setting("retention"));
            best = all.size() > 1 && all[1].score > all[0].score;
            found = all[best];
        }

        // Whether it is to be believed.
        const Crop part = windows[best].center(double(side) / model_.search_size);
        const bool plain = recovers && is_plain(crops[best], side, part, frame), stayed = stays(found.corners);
        if (plain) found.score = 0;
        const bool agreed_before = agreed_.value_or(false);
        if (agreed_before && !stayed) alone = first_alone();
        agreed_.reset();
        if (alone) agreed_ = confirmed || agree(alone->corners, found.corners);
        if (alone && !*agreed_ && alone->score >= setting("template_score") && !plain) found = *alone;
        const bool timely = before.status != Status::lost && on_time(frame_) && !agreed_.value_or(false);
        const bool due = timely && found.score >= setting("template_score") && (!checked || (agreed_before && stayed));
        if (seeking && found.score >= setting("found_score") && known) {
            const Found first = first_alone();
            if (first.score < setting("template_score") || overlap(first.corners, found.corners) < 0.5) found.score = 0;
        }
        auto rate = before.rate;
        Box box = image_box(frame, windows[best], found, seeking, rate);
        const Thumbnail small = recovers ? thumbnail(frame) : Thumbnail{};
        const bool cut = recovers && is_cut(thumbnail_, small);
        const bool doubted = recovers && (timely || cut || before.status != Status::tracking);
        const double least = setting(seeking ? "found_score" : "lost_score");
        std::vector<Template> taken;
        if (due || (doubted && found.score >= least)) {
            taken.push_back(take_template(frame, box, std::min(1, model_.identities - 1)));
            if (recovers && memory_.likeness(taken[0]) < setting("likeness")) found.score = 0;
        }
        const bool jumped = recovers && found.score >= least && iou(before.sure, box) < JUMP;
        if (jumped && scene_ && scene_->shows(frame, box)) found.score = 0;

        // What follows from it.
        recovery_.doubtful++, recovery_.turn += seeking && !plain, recovery_.found = false;
        if (seeking) {
            recovery_.found = found.score >= setting("found_score") && before.plausible(box);
            if (recovery_.found) trajectory_.assign(trajectory_.size(), box);
        } else {
            if (found.score < setting("hold_score")) box = trajectory_.back(), rate = before.rate;
            recovery_.rate = rate;
            trajectory_.erase(trajectory_.begin());
            trajectory_.push_back(box);
            if (found.score >= setting("lost_score")) {
                recovery_ = before.at(box, rate, frame_);
            } else if (recovery_.doubtful < setting("patience") && before.status != Status::lost && !cut) {
                recovery_.status = Status::uncertain;
            } else {
                if (before.status != Status::lost)
                    memory_.forget_from(frame_ - recovery_.doubtful - int(setting("interval")));
                recovery_.status = Status::lost;
                if (cut) recovery_.turn = GROWING;
                trajectory_.assign(trajectory_.size(), recovery_.sure);
            }
        }
        if (due && !taken.empty() && recovery_.status == Status::tracking) {
            memory_.add(std::move(taken[0]));
            if (recovers) scene_ = Scene(frame, box);
        }
        const auto watch = recovery_.watch;
        if (watch && watch->due(frame_) && recovery_.status == Status::tracking) {
            const auto there = returned(frame, *watch);
            if (there && iou(*there, box) >= 0.5) {
                recovery_.watch.reset();
            } else if (there && iou(*there, box) < JUMP) {
                memory_.forget_from(watch->since);
                trajectory_.assign(trajectory_.size(), *there);
                recovery_ = {*there, Status::lost, 0, 0, true, before.rate};
                scene_.reset();
            }
        }
        score_ = found.score, thumbnail_ = small;
        const bool sought = recovery_.status == Status::lost;
        const double chance = sought ? 0 : model_.calibrated(score_);
        if (recovers) told_ = told(sought, chance, told_);
        return {clip_box(sought ? recovery_.sure : trajectory_.back(), frame.width, frame.height), chance, told_};
    }

  private:
    Model& model_;
    std::map<std::string, double> settings_;
    int frame_ = 0, width_ = 0, height_ = 0;
    double score_ = 1;  // of the last frame, raw
    Status told_ = Status::tracking;  // by the last frame's track
    std::optional<bool> agreed_;      // whether the first template alone agreed on the last frame, if it was asked
    std::vector<Box> trajectory_;
    TemplateMemory memory_;
    Recovery recovery_{};
    Thumbnail thumbnail_{};
    std::optional<Scene> scene_;  // the frame of the last template

    double setting(const char* name) const { return settings_.at(name); }

    Template take_template(const Image& frame, const Box& box, int identity) {
        const Crop window = Crop::of_template(box, model_.template_factor);
        const Pixels crop = window.extract(frame, model_.template_size);
        Box corners = window.to_crop(box);
        for (double& value : corners) value = std::min(std::max(value, 0.0), 1.0);
        Template taken(frame_, model_.begin_template(crop, identity, corners), corners);
        const double least = frame_ > 0 ? setting("min_template") : 1, length = std::max(box[2], box[3]) / window.side;
        taken.center(least_side(std::max(least, length), model_.template_size) / model_.patch);
        return taken;
    }

    /** The box of what is again where the target was lost, if the first template alone is sure that it is the target. */
    std::optional<Box> returned(const Image& frame, const Watch& watch) {
        const Crop window = Crop::around(watch.place, model_.search_factor);
        const std::vector<int64_t> tokens(4 * model_.trajectory, NO_TRAJECTORY);
        const Pixels crop = window.extract(frame, model_.search_size);
        const Size whole{model_.search_size, model_.search_size};
        const Found found = model_.search({crop}, whole, tokens, memory_.history[0].cache)[0];
        Pair rate{};
        const Box box = image_box(frame, window, found, true, rate);
        if (found.score < setting("found_score") || !Recovery{watch.place}.plausible(box)) return std::nullopt;
        const Template seen = take_template(frame, box, std::min(1, model_.identities - 1));
        if (memory_.history[0].likeness(seen) < setting("likeness")) return std::nullopt;
        return box;
    }

    /** What is shown of the search window's center: all of it, or less for a slow, sure target. */
    Size shown_of(const Crop& window) const {
        auto along = [&](int axis) {
            if (setting("min_window") == 1 || score_ < setting("confident_score")) return model_.search_size;
            double speed = 0, last = 0, side = 0;
            for (size_t i = 0; i < trajectory_.size(); i++) {
                const Box corners = window.to_crop(trajectory_[i]);
                const double center = (corners[axis] + corners[axis + 2]) / 2;
                if (i > 0) speed = std::max(speed, std::abs(center - last));
                last = center, side = corners[axis + 2] - corners[axis];
            }
            const double radius = side / 2 + 2 * speed + 0.06;
            return least_side(std::max(2 * radius, setting("min_window")), model_.search_size);
        };
        const int width = along(0), height = along(1), least = std::max(width, height) - 2 * model_.patch;
        return {std::max(width, least), std::max(height, least)};
    }

    /** The side of the center of a crop: at least this share of it, and as many whole tokens missing on either side. */
    int least_side(double share, int size) const {
        return size - 2 * model_.patch * std::max(int((1 - share) * (size / model_.patch) / 2), 0);
    }

    /** The center of a crop of side × side pixels. */
    static Pixels center_of(const Pixels& crop, int side, Size size) {
        const int left = (side - size.width) / 2, top = (side - size.height) / 2;
        Pixels center;
        for (int row = top; row < top + size.height; row++) {
            const auto begin = crop.begin() + (row * side + left) * 3;
            center.insert(center.end(), begin, begin + size.width * 3);
        }
        return center;
    }

    /** The image box of what was found, and how fast its sides usually change. */
    Box image_box(const Image& frame, const Crop& window, const Found& found, bool seeking, Pair& rate) const {
        const auto [x0, y0, x1, y1] = found.corners;
        const Box raw = window.to_image({std::min(x0, x1), std::min(y0, y1), std::max(x0, x1), std::max(y0, y1)});
        const double lengths[] = {double(frame.width), double(frame.height)};
        Box box;
        for (int i : {0, 1}) {
            double length = std::max(raw[i + 2], 1.0), last = trajectory_.back()[i + 2];
            if (setting("lost_score") > 0 && !seeking) {
                if (found.score >= setting("lost_score")) {
                    const double change = std::log(length / last), bound = std::max(setting("size_step"), 3 * rate[i]);
                    length = last * std::exp(std::min(std::max(change, -bound), bound));
                    rate[i] = 0.9 * rate[i] + (1 - 0.9) * std::min(std::abs(change), 0.5);
                } else {
                    length = last;
                }
            }
            length = std::min(std::max(length, 1.0), lengths[i]);
            const double center = std::min(std::max(raw[i] + raw[i + 2] / 2, 0.0), lengths[i]);
            box[i] = center - length / 2, box[i + 2] = length;
        }
        for (double& value : box) value = std::floor(value / 0.125 + 0.5 + 1e-4) * 0.125;
        return box;
    }
};

}  // namespace fartrack
