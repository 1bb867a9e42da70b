#include "infra/base/metrics.h"

#include "infra/base/version.h"

#include <dirent.h>
#include <prometheus/check_names.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace tidemark::base {

// The library's own registry is left aside: its histogram takes a lock on every observation, and its families come out
// in the order of a hash table. Its model and its text serializer are what everybody's scrapers understand.

namespace {

/// 100 us to 10 s: from a cached answer to the longest deadline.
const std::vector<double> kDefaultBounds = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                            0.05,   0.1,     0.25,   0.5,   1.0,    2.5,   5.0,  10.0};

class CounterCell final : public Metrics::Counter {
public:
    void add(double amount) noexcept override {
        if (amount > 0) value_.fetch_add(amount, std::memory_order_relaxed);
    }
    [[nodiscard]] prometheus::ClientMetric collect() const {
        prometheus::ClientMetric metric;
        metric.counter.value = value_.load(std::memory_order_relaxed);
        return metric;
    }
    static constexpr auto kType = prometheus::MetricType::Counter;

private:
    std::atomic<double> value_ = 0;
};

class GaugeCell final : public Metrics::Gauge {
public:
    void set(double value) noexcept override { value_.store(value, std::memory_order_relaxed); }
    [[nodiscard]] prometheus::ClientMetric collect() const {
        prometheus::ClientMetric metric;
        metric.gauge.value = value_.load(std::memory_order_relaxed);
        return metric;
    }
    static constexpr auto kType = prometheus::MetricType::Gauge;

private:
    std::atomic<double> value_ = 0;
};

class HistogramCell final : public Metrics::Histogram {
public:
    explicit HistogramCell(const std::vector<double>& bounds) : bounds_(bounds), counts_(bounds.size() + 1) {}

    void observe(double value) noexcept override {
        if (std::isnan(value)) return;  // it would turn the sum into NaN for ever
        const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
        counts_[static_cast<std::size_t>(bucket)].fetch_add(1, std::memory_order_relaxed);
        sum_.fetch_add(value, std::memory_order_relaxed);
    }
    /// The count is the sum of the buckets read here, so that what is rendered agrees with itself.
    [[nodiscard]] prometheus::ClientMetric collect() const {
        prometheus::ClientMetric metric;
        auto& histogram = metric.histogram;
        for (std::size_t i = 0; i < counts_.size(); ++i) {
            histogram.sample_count += counts_[i].load(std::memory_order_relaxed);
            const double bound = i < bounds_.size() ? bounds_[i] : std::numeric_limits<double>::infinity();
            histogram.bucket.push_back({histogram.sample_count, bound});
        }
        histogram.sample_sum = sum_.load(std::memory_order_relaxed);
        return metric;
    }
    [[nodiscard]] const std::vector<double>& bounds() const noexcept { return bounds_; }
    static constexpr auto kType = prometheus::MetricType::Histogram;

private:
    const std::vector<double> bounds_;
    std::vector<std::atomic<std::uint64_t>> counts_;
    std::atomic<double> sum_ = 0;
};

template <typename Cell>
struct Family {
    std::string help;
    std::map<Metrics::Labels, std::unique_ptr<Cell>> cells;
};

template <typename Cell>
using Families = std::map<std::string, Family<Cell>, std::less<>>;

void check_texts(const std::string& name, std::string_view help, const Metrics::Labels& labels) {
    // The library's serializer (1.0.1) writes the help text as it is, so that these would break the page.
    if (help.find_first_of("\\\n") != std::string_view::npos) throw std::logic_error("help of one line, for " + name);
    if (!prometheus::CheckMetricName(name)) throw std::logic_error("not a metric name: " + name);
    for (const auto& [label, value] : labels) {
        if (!prometheus::CheckLabelName(label)) throw std::logic_error("not a label name: " + label + " of " + name);
    }
}

template <typename Cell, typename... Arguments>
Cell& find_or_make(Families<Cell>& families, std::string_view name, std::string_view help,
                   const Metrics::Labels& labels, const Arguments&... arguments) {
    auto& family = families.try_emplace(std::string(name), Family<Cell>{std::string(help), {}}).first->second;
    if (family.help != help) throw std::logic_error("two help texts for the metric " + std::string(name));
    auto& cell = family.cells[labels];
    if (!cell) cell = std::make_unique<Cell>(arguments...);
    return *cell;
}

template <typename Cell>
void collect(const Families<Cell>& families, std::vector<prometheus::MetricFamily>& out) {
    for (const auto& [name, family] : families) {
        prometheus::MetricFamily collected{name, family.help, Cell::kType, {}};
        for (const auto& [labels, cell] : family.cells) {
            auto metric = cell->collect();
            for (const auto& [label, value] : labels)
                metric.label.push_back({label, value});
            collected.metric.push_back(std::move(metric));
        }
        out.push_back(std::move(collected));
    }
}

void append_single(std::vector<prometheus::MetricFamily>& out, const char* name, const char* help,
                   prometheus::MetricType type, std::optional<double> value,
                   std::vector<prometheus::ClientMetric::Label> labels = {}) {
    if (!value) return;  // an absent series says "unknown"; a zero would lie
    prometheus::ClientMetric metric;
    metric.label = std::move(labels);
    metric.counter.value = *value;
    metric.gauge.value = *value;
    out.push_back({name, help, type, {std::move(metric)}});
}

/// The fields of /proc/self/stat from the third on ("state" is 0): the second may contain spaces and parentheses.
std::vector<std::string> process_status() {
    std::ifstream file("/proc/self/stat");
    std::string text;
    std::getline(file, text);
    const auto name_end = text.rfind(')');
    if (name_end == std::string::npos) return {};
    std::istringstream rest(text.substr(name_end + 1));
    std::vector<std::string> fields;
    for (std::string field; rest >> field;)
        fields.push_back(field);
    return fields;
}

std::optional<double> cpu_seconds(const std::vector<std::string>& status) {
    constexpr std::size_t kUserTime = 11;
    constexpr std::size_t kSystemTime = 12;
    const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    if (status.size() <= kSystemTime || ticks <= 0) return std::nullopt;
    return (std::stod(status[kUserTime]) + std::stod(status[kSystemTime])) / ticks;
}

std::optional<double> start_time(const std::vector<std::string>& status) {
    constexpr std::size_t kStartTime = 19;  // in ticks since boot
    const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    if (status.size() <= kStartTime || ticks <= 0) return std::nullopt;
    std::ifstream file("/proc/stat");
    for (std::string word; file >> word;) {
        double boot = 0;
        if (word == "btime" && file >> boot) return boot + std::stod(status[kStartTime]) / ticks;
    }
    return std::nullopt;
}

std::optional<double> resident_bytes() {
    std::ifstream file("/proc/self/statm");
    double total_pages = 0;
    double resident_pages = 0;
    if (!(file >> total_pages >> resident_pages)) return std::nullopt;
    return resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

std::optional<double> open_descriptors() {
    DIR* directory = opendir("/proc/self/fd");
    if (directory == nullptr) return std::nullopt;
    double count = 0;
    while (const dirent* entry = readdir(directory)) {
        if (entry->d_name[0] != '.') ++count;
    }
    closedir(directory);
    return count - 1;  // the directory itself is open while we count
}

}  // namespace

struct Metrics::State {
    template <typename Cell>
    void check_unused(const Families<Cell>& others, std::string_view name) const {
        if (others.find(name) != others.end()) throw std::logic_error("two types for the metric " + std::string(name));
    }

    mutable std::mutex mutex;  // guards the maps, not what the instruments hold
    Families<CounterCell> counters;
    Families<GaugeCell> gauges;
    Families<HistogramCell> histograms;
};

void Metrics::Follower::follow(std::uint64_t total) {
    if (total <= seen) return;
    counter->add(static_cast<double>(total - seen));
    seen = total;
}

Metrics::Metrics() : state_(std::make_unique<State>()) {}

Metrics::~Metrics() = default;

Metrics::Counter& Metrics::counter(std::string_view name, std::string_view help, const Labels& labels) {
    check_texts(std::string(name), help, labels);
    const std::lock_guard lock(state_->mutex);
    state_->check_unused(state_->gauges, name);
    state_->check_unused(state_->histograms, name);
    return find_or_make(state_->counters, name, help, labels);
}

Metrics::Gauge& Metrics::gauge(std::string_view name, std::string_view help, const Labels& labels) {
    check_texts(std::string(name), help, labels);
    const std::lock_guard lock(state_->mutex);
    state_->check_unused(state_->counters, name);
    state_->check_unused(state_->histograms, name);
    return find_or_make(state_->gauges, name, help, labels);
}

Metrics::Histogram& Metrics::histogram(std::string_view name, std::string_view help, const Labels& labels,
                                       const std::vector<double>& bounds) {
    check_texts(std::string(name), help, labels);
    const auto& wanted = bounds.empty() ? kDefaultBounds : bounds;
    if (std::adjacent_find(wanted.begin(), wanted.end(), std::greater_equal<>{}) != wanted.end()) {
        throw std::logic_error("the bounds of a histogram ascend: " + std::string(name));
    }
    const std::lock_guard lock(state_->mutex);
    state_->check_unused(state_->counters, name);
    state_->check_unused(state_->gauges, name);
    auto& cell = find_or_make(state_->histograms, name, help, labels, wanted);
    if (cell.bounds() != wanted) throw std::logic_error("two sets of bounds for the histogram " + std::string(name));
    return cell;
}

std::string Metrics::render() const {
    std::vector<prometheus::MetricFamily> families;
    {
        const std::lock_guard lock(state_->mutex);
        collect(state_->counters, families);
        collect(state_->gauges, families);
        collect(state_->histograms, families);
    }
    const auto status = process_status();
    using prometheus::MetricType;
    append_single(families, "process_cpu_seconds_total", "User and system CPU time spent, in seconds.",
                  MetricType::Counter, cpu_seconds(status));
    append_single(families, "process_resident_memory_bytes", "Resident memory, in bytes.", MetricType::Gauge,
                  resident_bytes());
    append_single(families, "process_open_fds", "Open file descriptors.", MetricType::Gauge, open_descriptors());
    append_single(families, "process_start_time_seconds", "Start of the process, in seconds since the Unix epoch.",
                  MetricType::Gauge, start_time(status));
    append_single(families, "tidemark_build_info", "Always 1; the labels say what runs.", MetricType::Gauge, 1.0,
                  {{"commit", std::string(commit())}, {"version", std::string(version())}});
    std::sort(families.begin(), families.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    return prometheus::TextSerializer().Serialize(families);
}

}  // namespace tidemark::base
