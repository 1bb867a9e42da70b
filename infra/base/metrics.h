#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::base {

/// The process's metrics, rendered in the Prometheus text format. Names are API: base units, bounded labels.
/// Instruments are made at start, live as long as the registry, and may be moved by any thread without a lock; asking
/// twice for the same name and labels gives the same instrument.
class Metrics {
public:
    class Counter {
    public:
        /// What is not above 0 changes nothing.
        virtual void add(double amount = 1) noexcept = 0;

    protected:
        ~Counter() = default;
    };
    class Gauge {
    public:
        virtual void set(double value) noexcept = 0;

    protected:
        ~Gauge() = default;
    };
    class Histogram {
    public:
        /// In the metric's unit, e.g. seconds.
        virtual void observe(double value) noexcept = 0;

    protected:
        ~Histogram() = default;
    };
    /// Makes a counter follow a total that is counted elsewhere and never falls. One thread at a time.
    struct Follower {
        Counter* counter = nullptr;
        std::uint64_t seen = 0;
        void follow(std::uint64_t total);
    };
    using Labels = std::map<std::string, std::string>;

    Metrics();
    ~Metrics();
    Metrics(const Metrics&) = delete;
    Metrics& operator=(const Metrics&) = delete;

    Counter& counter(std::string_view name, std::string_view help, const Labels& labels = {});
    Gauge& gauge(std::string_view name, std::string_view help, const Labels& labels = {});
    /// `bounds`: upper bounds, ascending; empty: 100 us to 10 s in steps of about 2.5.
    Histogram& histogram(std::string_view name, std::string_view help, const Labels& labels = {},
                         const std::vector<double>& bounds = {});

    /// All instruments and process_cpu_seconds_total, process_resident_memory_bytes, process_open_fds,
    /// process_start_time_seconds, tidemark_build_info.
    [[nodiscard]] std::string render() const;

private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace tidemark::base
