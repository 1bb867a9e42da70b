#include "producer/import.h"

#include "producer/line.h"
#include "schemas/imported_line.h"

#include <sodium.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace tidemark::producer {

namespace {

// How long to wait for room or for a broker before what was refused is offered again.
constexpr std::chrono::milliseconds kRetry{50};

// In flight at once: enough to fill the client's batches.
constexpr std::size_t kMostInFlight = 5'000;

base::Metrics::Counter& outcome(base::Metrics& metrics, const char* name) {
    return metrics.counter(
        "tidemark_import_outcomes_total",
        "What became of the lines: refused are no valid events, skipped another log's own, unknown perhaps "
        "stored",
        {{"outcome", name}});
}

// How often progress is told of: each time costs a lock.
constexpr std::uint64_t kLinesBetween = 256;

struct Numbered {
    std::uint64_t number = 0;
    Line line;
    bool perhaps_stored = false;  // it was sent before, and no answer came
};

// What has been offered and not been answered yet. Completions come on the publisher's thread, everything else on the
// importer's.
class InFlight {
public:
    InFlight(ImportMetrics& metrics, const std::string& file) : metrics_(metrics), file_(file) {}

    void offer(EventPublisher& publisher, Numbered line) {
        {
            const std::lock_guard lock(mutex_);
            count_ += 1;
        }
        auto held = std::make_unique<Numbered>(std::move(line));
        headers_.clear();
        for (const auto& header : held->line.headers)
            headers_.push_back({header.name, header.value ? std::string_view(*header.value) : std::string_view()});
        if (!file_.empty() && !held->line.is_imported) {
            lineage_.clear();
            schemas::append_imported_line(lineage_, {file_, static_cast<std::int64_t>(held->number)});
            headers_.push_back({schemas::ImportedLine::kHeader, lineage_});
        }
        const Outgoing event{.topic = held->line.destination.topic,
                             .key = held->line.destination.key,
                             .value = held->line.value,
                             .headers = headers_,
                             .bare = held->line.is_envelope};
        publisher.publish(event, [this, held = std::move(held)](const Published& published) mutable noexcept {
            answer(std::move(held), published.outcome);
        });
    }

    // Waits until at most `most` are in flight, or something came back, at most `limit`.
    void wait(std::size_t most, std::chrono::milliseconds limit) {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, limit, [&] { return count_ <= most || !returned_.empty(); });
    }

    // Waits until nothing is in flight, at most `limit`; true when so.
    bool wait_idle(std::chrono::milliseconds limit) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, limit, [&] { return count_ == 0; });
    }

    [[nodiscard]] std::size_t count() const {
        const std::lock_guard lock(mutex_);
        return count_;
    }
    [[nodiscard]] bool any_returned() const {
        const std::lock_guard lock(mutex_);
        return !returned_.empty();
    }
    std::deque<Numbered> take_returned() {
        const std::lock_guard lock(mutex_);
        return std::exchange(returned_, {});
    }

    [[nodiscard]] std::uint64_t accepted() const {
        const std::lock_guard lock(mutex_);
        return accepted_;
    }

    // Read these once nothing is in flight.
    std::vector<std::uint64_t> unknown;    // line numbers
    std::vector<std::uint64_t> too_large;  // likewise

private:
    void answer(std::unique_ptr<Numbered> line, Outcome outcome) noexcept {
        const std::lock_guard lock(mutex_);
        count_ -= 1;
        switch (outcome) {
            case Outcome::accepted:
                accepted_ += 1;
                metrics_.accepted.add();
                break;
            case Outcome::overloaded:
            case Outcome::unavailable:
                returned_.push_back(std::move(*line));
                break;
            case Outcome::unknown:
                if (!file_.empty()) {  // stored twice, its line counts once
                    line->perhaps_stored = true;
                    returned_.push_back(std::move(*line));
                    break;
                }
                unknown.push_back(line->number);
                metrics_.unknown.add();
                break;
            case Outcome::too_large:
                too_large.push_back(line->number);
                metrics_.refused.add();
                break;
        }
        changed_.notify_all();  // under the lock, as the importer destroys both once it sees that nothing is out
    }

    ImportMetrics& metrics_;
    const std::string& file_;
    // The importer's alone.
    std::vector<kafka::Header> headers_;
    std::string lineage_;
    mutable std::mutex mutex_;  // guards all that follows, and what is public
    std::uint64_t accepted_ = 0;
    std::condition_variable changed_;
    std::size_t count_ = 0;
    std::deque<Numbered> returned_;  // to be offered again: in no log, or naming its line
};

}  // namespace

ImportMetrics::ImportMetrics(base::Metrics& metrics)
    : lines(metrics.counter("tidemark_import_lines_total", "Lines read that were not blank")),
      accepted(outcome(metrics, "accepted")),
      refused(outcome(metrics, "refused")),
      skipped(outcome(metrics, "skipped")),
      failed(outcome(metrics, "failed")),
      unknown(outcome(metrics, "unknown")) {}

ImportReport import_lines(std::istream& lines, EventPublisher& publisher, ImportMetrics& metrics,
                          const base::Clock& clock, std::ostream& errors, const ImportOptions& options) {
    ImportReport report;
    InFlight in_flight(metrics, options.file);
    schemas::json::Reader reader;
    std::deque<Numbered> todo;  // in the file's order
    std::string text;
    std::uint64_t number = 0;  // of the line read last

    const auto tell = [&] {
        report.accepted = in_flight.accepted();
        options.on_progress(report);
    };
    const auto read_next = [&] {
        while (std::getline(lines, text)) {
            number += 1;
            if (number % kLinesBetween == 0) tell();
            if (number < options.from_line || text.find_first_not_of(" \t\r") == std::string::npos) continue;
            report.lines += 1;
            metrics.lines.add();
            auto line = read_line(text, reader, clock.now());
            if (line && line->is_another_logs) {
                report.skipped += 1;
                metrics.skipped.add();
                continue;
            }
            if (line) {
                todo.push_back({number, std::move(*line)});
                return true;
            }
            report.refused += 1;
            metrics.refused.add();
            errors << "line " << number << ": " << describe(line.violations()) << '\n';
        }
        return false;
    };
    const auto give_up = [&](std::chrono::milliseconds wait) {
        tell();
        return options.give_up(wait);
    };

    bool gave_up = false;
    while (!gave_up) {
        if (in_flight.any_returned()) {
            // Once nothing is out any more, what came back and what follows it is in one hand and can be put in order.
            if (!in_flight.wait_idle(kRetry)) continue;
            auto returned = in_flight.take_returned();
            std::move(todo.begin(), todo.end(), std::back_inserter(returned));
            todo = std::move(returned);
            std::sort(todo.begin(), todo.end(),
                      [](const Numbered& a, const Numbered& b) { return a.number < b.number; });
            gave_up = give_up(kRetry);
        } else if (in_flight.count() >= kMostInFlight) {
            in_flight.wait(kMostInFlight - 1, kRetry);
            gave_up = give_up(std::chrono::milliseconds(0));
        } else if (!todo.empty() || read_next()) {
            in_flight.offer(publisher, std::move(todo.front()));
            todo.pop_front();
        } else if (lines.bad()) {
            gave_up = true;  // it could not be read, or nobody wants it read, to its end
        } else if (in_flight.count() > 0) {
            in_flight.wait(0, kRetry);
            tell();
        } else if (!in_flight.any_returned()) {
            break;
        }
    }
    // Nothing may refer to `in_flight` any more: the publisher answers everything within its own deadline.
    while (!in_flight.wait_idle(kRetry)) {
    }
    for (auto& line : in_flight.take_returned())
        todo.push_back(std::move(line));
    const auto not_stored = [&](std::uint64_t line) {
        report.next_line = report.next_line == 0 ? line : std::min(report.next_line, line);
    };
    for (const auto& line : todo) {
        not_stored(line.number);
        if (line.perhaps_stored) {
            in_flight.unknown.push_back(line.number);
            metrics.unknown.add();
        } else {
            report.failed += 1;
            metrics.failed.add();
            errors << "line " << line.number << ": not stored, given up\n";
        }
    }
    if (gave_up) {
        not_stored(number + 1);
        errors << "the file was not read beyond line " << number << '\n';
    }
    for (const auto line : in_flight.unknown) {
        not_stored(line);
        errors << "line " << line << ": sent, but no answer came: it may have been stored\n";
    }
    for (const auto line : in_flight.too_large)
        errors << "line " << line << ": too large for its topic\n";
    report.unknown = in_flight.unknown.size();
    report.refused += in_flight.too_large.size();
    report.complete = !gave_up;
    tell();
    return report;
}

std::string hash_of(std::istream& bytes) {
    crypto_hash_sha256_state state;
    crypto_hash_sha256_init(&state);
    std::vector<char> buffer(std::size_t{64} << 10);
    while (bytes.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), bytes.gcount() > 0) {
        crypto_hash_sha256_update(&state, reinterpret_cast<const unsigned char*>(buffer.data()),
                                  static_cast<unsigned long long>(bytes.gcount()));
    }
    if (bytes.bad())
        throw std::runtime_error("the file could not be read to its end, and nothing was imported: import it again");
    std::array<unsigned char, crypto_hash_sha256_BYTES> digest{};
    crypto_hash_sha256_final(&state, digest.data());
    constexpr std::size_t kBytes = 16;
    constexpr int kVariant = sodium_base64_VARIANT_URLSAFE_NO_PADDING;
    std::array<char, sodium_base64_ENCODED_LEN(kBytes, kVariant)> text{};
    return sodium_bin2base64(text.data(), text.size(), digest.data(), kBytes, kVariant);
}

}  // namespace tidemark::producer
