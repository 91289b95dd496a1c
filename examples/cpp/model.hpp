// A model package with ONNX Runtime: its model.json, its graphs, and what their inputs and outputs mean.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>
#include <regex>
#include <stdexcept>
#include <string>

#include "geometry.hpp"

namespace fartrack {

constexpr int BINS = 600, NO_TRAJECTORY = BINS + 4, RADIUS = 12;
constexpr double LOW = -0.5, BIN_WIDTH = 2.0 / BINS;

inline int64_t encode(double coordinate) {
    return int64_t(std::min(std::max(std::floor((coordinate - LOW) / BIN_WIDTH), 0.0), BINS - 1.0));
}

struct Found {
    Box corners{};
    double score = 1;  // the least probability mass behind a coordinate
};

inline Found decode(const float* logits) {
    Found found;
    for (int i = 0; i < 4; i++, logits += BINS) {
        const int mode = int(std::max_element(logits, logits + BINS) - logits);
        double all = 0, near = 0, sum = 0;
        for (int bin = 0; bin < BINS; bin++) {
            const double weight = std::exp(double(logits[bin]) - logits[mode]);
            all += weight;
            if (std::abs(bin - mode) <= RADIUS) near += weight, sum += weight * (LOW + (bin + 0.5) * BIN_WIDTH);
        }
        found.corners[i] = sum / near;
        found.score = std::min(found.score, near / all);
    }
    return found;
}

inline double overlap(const Box& a, const Box& b) {  // of corners
    return iou({a[0], a[1], a[2] - a[0], a[3] - a[1]}, {b[0], b[1], b[2] - b[0], b[3] - b[1]});
}

/** The values of a JSON text by their paths, such as "settings.interval"; lists and escapes are not read. */
inline std::map<std::string, std::string> read_json(const std::string& text) {
    static const std::regex token(R"re("[^"]*"|[{}:,]|[^\s{}:,"]+)re");
    std::map<std::string, std::string> values;
    std::vector<std::string> keys;
    std::string last;
    for (std::sregex_iterator each(text.begin(), text.end(), token), end; each != end; ++each) {
        std::string found = each->str();
        if (found == "{") keys.push_back("");
        else if (keys.empty()) break;
        else if (found == "}") keys.pop_back();
        else if (found == ":") keys.back() = last;
        else if (found == ",") keys.back() = "";
        else {
            last = found[0] == '"' ? found.substr(1, found.size() - 2) : found;
            if (keys.back().empty()) continue;  // it is a key
            std::string path;
            for (const auto& key : keys) path += (path.empty() ? "" : ".") + key;
            values[path] = last;
        }
    }
    return values;
}

struct Size {  // in pixels
    int width, height;
};

struct KVCache {  // what the network keeps of templates: (layers, heads, tokens, channels)
    std::array<int64_t, 4> shape{};
    std::vector<float> data;
    std::vector<float> rest{};  // of a template: the tokens from which the last layers go on, empty if there are all
};

class Model {
  public:
    std::map<std::string, double> settings{  // TrackerSettings in src/fartrack/tracking/settings.py documents each
        {"templates", 5},    {"interval", 20},     {"template_score", 0.5}, {"agreement", 0},  {"hold_score", 0.1},
        {"lost_score", 0},   {"likeness", 0.5},    {"patience", 3},         {"capacity", 16},  {"found_score", 0.6},
        {"size_step", 0.2},  {"min_template", 1},  {"retention", 1},       {"min_window", 1},   {"confident_score", 0.6}};
    int patch, template_size, search_size, identities, trajectory;
    double template_factor, search_factor, slope, bias;

    /** A model package: a folder with a model.json; `changes` are KEY=VALUE: settings, preset, precision or threads. */
    Model(const std::filesystem::path& folder, const std::vector<std::string>& changes) {
        std::ifstream file(folder / "model.json");
        if (!file) throw std::runtime_error(folder.string() + " has no model.json; give the folder of a model.");
        auto record = read_json({std::istreambuf_iterator<char>(file), {}});
        if (record["format"] != "6") throw std::runtime_error(folder.string() + " is of another format than 6.");
        auto config = [&](const char* name) { return std::stod(record.at("config." + std::string(name))); };
        patch = int(config("patch")), template_size = int(config("template_size"));
        search_size = int(config("search_size")), identities = int(config("identities"));
        trajectory = int(config("trajectory"));
        template_factor = config("template_factor"), search_factor = config("search_factor");
        slope = record.count("score.slope") ? std::stod(record["score.slope"]) : 0;
        bias = slope > 0 ? std::stod(record.at("score.bias")) : 0;
        choose(record, "settings.");
        Ort::SessionOptions options;
        for (const auto& change : changes) {
            const auto name = change.substr(0, change.find('=')), value = change.substr(change.find('=') + 1);
            if (name == "precision") record[name] = value;
            else if (name == "threads") options.SetIntraOpNumThreads(std::stoi(value));
            else if (name != "preset") set(name, value);
            else if (!choose(record, "presets." + value + ".")) throw std::runtime_error("No preset " + value + ".");
        }
        settings["templates"] = std::min(settings["templates"], config("templates"));
        if (identities > 2) throw std::runtime_error("This loop has no identity for every template.");
        const auto network = folder / (record.count("network") ? record["network"] : ".");
        const std::string precision = record["precision"] == "int8" ? "_int8" : "";
        const auto end = precision + "-" + std::to_string(int(config("depth"))) + ".onnx";
        auto open = [&](const char* name) { return Ort::Session(env_, (network / (name + end)).c_str(), options); };
        encoder_ = open("template"), search_ = open("search");
        if (encoder_.GetOutputCount() > 1) finisher_ = open("template_rest");
        if (settings["retention"] < 1) scored_ = open("search_scored");
    }

    KVCache begin_template(const Pixels& crop, int64_t identity, const Box& corners) {
        std::array<float, 4> box{};
        std::copy(corners.begin(), corners.end(), box.begin());
        std::array<Ort::Value, 3> inputs{tensor(crop.data(), crop.size(), {1, template_size, template_size, 3}),
                                         tensor(&identity, 1, {1}), tensor(box.data(), 4, {1, 4})};
        const char *names[] = {"templates", "identities", "boxes"}, *outputs[] = {"kv_cache", "tokens"};
        auto found = encoder_.Run(Ort::RunOptions{}, names, inputs.data(), 3, outputs, finisher_ ? 2 : 1);
        auto shape = found[0].GetTensorTypeAndShapeInfo().GetShape();  // the first axis is the batch
        KVCache cache;
        std::copy(shape.begin() + 1, shape.end(), cache.shape.begin());
        cache.data = values(found[0]);
        if (finisher_) cache.rest = values(found[1]);
        return cache;
    }

    void finish_template(KVCache& cache) {
        auto& [layers, heads, count, channels] = cache.shape;
        const auto tokens = tensor(cache.rest.data(), cache.rest.size(), {1, 1, count, heads * channels});
        const char *name = "tokens", *output = "kv_cache";
        const auto found = values(finisher_.Run(Ort::RunOptions{}, &name, &tokens, 1, &output, 1)[0]);
        cache.data.insert(cache.data.end(), found.begin(), found.end()), cache.rest.clear();
        layers = int64_t(cache.data.size()) / (heads * count * channels);
    }

    /** What is found in search crops of one size, all in one call, as int8 rounds by the whole batch; and, if asked
     *  for, how much attention each template token gets from the first crop. */
    std::vector<Found> search(const std::vector<Pixels>& crops, Size size, const std::vector<int64_t>& tokens,
                              const KVCache& cache, std::vector<float>* scores = nullptr) {
        const int64_t count = int64_t(crops.size());
        Pixels pixels;
        std::vector<int64_t> past;
        for (const auto& crop : crops) {
            pixels.insert(pixels.end(), crop.begin(), crop.end());
            past.insert(past.end(), tokens.begin(), tokens.end());
        }
        const auto& [layers, heads, length, channels] = cache.shape;
        std::vector<std::string> names{"search", "trajectory"};
        std::vector<Ort::Value> inputs;
        inputs.push_back(tensor(pixels.data(), pixels.size(), {count, size.height, size.width, 3}));
        inputs.push_back(tensor(past.data(), past.size(), {count, int64_t(tokens.size())}));
        // The cache's tensors along its first axis are apart, each repeated for every crop.
        const size_t each = cache.data.size() / size_t(layers);
        std::vector<float> repeated;
        if (count > 1) {
            repeated.reserve(cache.data.size() * size_t(count));
            for (auto part = cache.data.begin(); part != cache.data.end(); part += ptrdiff_t(each))
                for (int i = 0; i < count; i++) repeated.insert(repeated.end(), part, part + ptrdiff_t(each));
        }
        const float* kv = count > 1 ? repeated.data() : cache.data.data();
        for (int i = 0; i < layers; i++) {
            names.push_back("kv_cache_" + std::to_string(i));
            const float* part = kv + i * count * int64_t(each);
            inputs.push_back(tensor(part, each * size_t(count), {count, heads, length, channels}));
        }
        std::vector<const char*> keys;
        for (const auto& name : names) keys.push_back(name.c_str());
        const char* outputs[] = {"logits", "scores"};
        auto& session = scores ? scored_ : search_;
        auto results =
            session.Run(Ort::RunOptions{}, keys.data(), inputs.data(), inputs.size(), outputs, scores ? 2 : 1);
        if (scores) scores->assign(results[1].GetTensorData<float>(), results[1].GetTensorData<float>() + length);
        std::vector<Found> found;
        for (int i = 0; i < count; i++) found.push_back(decode(results[0].GetTensorData<float>() + i * 4 * BINS));
        return found;
    }

    double calibrated(double score) const {
        if (slope == 0) return score;
        score = std::min(std::max(score, 1e-4), 1 - 1e-4);
        return 1 / (1 + std::exp(-(slope * (std::log(score) - std::log1p(-score)) + bias)));
    }

  private:
    Ort::Env env_{ORT_LOGGING_LEVEL_FATAL, "fartrack"};
    Ort::Session encoder_{nullptr}, finisher_{nullptr}, search_{nullptr}, scored_{nullptr};

    static std::vector<float> values(const Ort::Value& tensor) {
        const float* first = tensor.GetTensorData<float>();
        return {first, first + tensor.GetTensorTypeAndShapeInfo().GetElementCount()};
    }

    bool choose(const std::map<std::string, std::string>& record, const std::string& prefix) {
        const auto first = record.lower_bound(prefix);
        auto each = first;
        for (; each != record.end() && each->first.rfind(prefix, 0) == 0; ++each)
            set(each->first.substr(prefix.size()), each->second);
        return each != first;
    }

    void set(const std::string& name, const std::string& value) {
        if (!settings.count(name)) throw std::runtime_error("There is no setting " + name + ".");
        settings[name] = std::stod(value);
    }

    template <class T>
    static Ort::Value tensor(const T* data, size_t size, const std::vector<int64_t>& shape) {
        static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        return Ort::Value::CreateTensor<T>(memory, const_cast<T*>(data), size, shape.data(), shape.size());
    }
};

}  // namespace fartrack
