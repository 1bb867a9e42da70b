// tidemark-load: writes events through one or more APIs over kept connections and remembers what became of each, so
// that a test can hold every single answer against the log. It knows nothing of Tidemark's libraries.
//
// Every request carries a trace id of its own (`--run` and its number), which travels into the record. In --directory
// it leaves `result.json` (totals, latencies, sums by entity), `progress` (fixed-width numbers, renewed while it runs:
// see write_progress) and with --journal `journal`, a line per request: its final outcome, number, entity, value,
// token.
//
// Outcomes: `acked` (2xx); `refused` (503 without "outcome": must never be in the log); `unknown` (503 with it, or no
// whole answer to a request that was at least partly sent); `other` (any other answer, which no test expects). With
// --retry each request has an Idempotency-Key, and is repeated on the next server until it is acked.
//
// It ends after --requests, or at SIGTERM: then it sends nothing new and waits for the answers that are due.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

struct Plan {
    std::vector<sockaddr_in> servers;
    std::string directory;
    std::uint64_t run = 1;
    std::uint64_t seed = 1;
    std::size_t connections = 16;
    std::uint64_t requests = UINT64_MAX;
    double rate = 0;  // requests per second; 0: as fast as they are answered
    std::string prefix = "key-";
    std::uint64_t keys = 1;  // one key is the prefix itself, several are numbered
    std::int64_t lowest = 1;
    std::int64_t highest = 1;
    std::uint64_t first_vehicle = 1;
    std::uint64_t vehicles = 0;
    std::uint64_t vehicle_percent = 0;  // how many of a hundred requests are state changes
    milliseconds timeout{15'000};       // more than any deadline of the server's: not answering at all is a hang
    bool retry = false;
    bool journal = false;
};

[[noreturn]] void fail(const std::string& what) {
    throw std::system_error(errno, std::generic_category(), what);
}

template <typename Number>
Number to_number(std::string_view text) {
    Number number{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size()) {
        throw std::invalid_argument("not a number: " + std::string(text));
    }
    return number;
}

sockaddr_in to_address(const std::string& text) {
    const auto colon = text.rfind(':');
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(to_number<std::uint16_t>(std::string_view(text).substr(colon + 1)));
    if (inet_pton(AF_INET, text.substr(0, colon).c_str(), &address.sin_addr) != 1) {
        throw std::invalid_argument("not ADDRESS:PORT: " + text);
    }
    return address;
}

Plan read_plan(int argc, char** argv) {
    Plan plan;
    for (int i = 1; i < argc; ++i) {
        const std::string_view name = argv[i];
        if (name == "--retry") {
            plan.retry = true;
            continue;
        }
        if (name == "--journal") {
            plan.journal = true;
            continue;
        }
        if (i + 1 == argc) throw std::invalid_argument("no value for " + std::string(name));
        const std::string value = argv[++i];
        if (name == "--to")
            plan.servers.push_back(to_address(value));
        else if (name == "--directory")
            plan.directory = value;
        else if (name == "--run")
            plan.run = to_number<std::uint64_t>(value);
        else if (name == "--seed")
            plan.seed = to_number<std::uint64_t>(value);
        else if (name == "--connections")
            plan.connections = to_number<std::size_t>(value);
        else if (name == "--requests")
            plan.requests = to_number<std::uint64_t>(value);
        else if (name == "--rate")
            plan.rate = to_number<double>(value);
        else if (name == "--prefix")
            plan.prefix = value;
        else if (name == "--keys")
            plan.keys = to_number<std::uint64_t>(value);
        else if (name == "--lowest")
            plan.lowest = to_number<std::int64_t>(value);
        else if (name == "--highest")
            plan.highest = to_number<std::int64_t>(value);
        else if (name == "--first-vehicle")
            plan.first_vehicle = to_number<std::uint64_t>(value);
        else if (name == "--vehicles")
            plan.vehicles = to_number<std::uint64_t>(value);
        else if (name == "--vehicle-percent")
            plan.vehicle_percent = to_number<std::uint64_t>(value);
        else if (name == "--timeout")
            plan.timeout = milliseconds(to_number<std::int64_t>(value));
        else
            throw std::invalid_argument("unknown option " + std::string(name));
    }
    if (plan.servers.empty() || plan.directory.empty() || plan.connections == 0 || plan.keys == 0) {
        throw std::invalid_argument("needs at least --to ADDRESS:PORT and --directory");
    }
    return plan;
}

enum class Outcome : std::uint8_t { acked, refused, unknown, other };
constexpr std::array<std::string_view, 4> kOutcomes{"acked", "refused", "unknown", "other"};

struct Request {
    std::uint64_t number = 0;
    bool is_vehicle = false;
    std::uint64_t entity = 0;  // index of the key, or the vehicle's id
    std::int64_t value = 0;    // of an increment
    std::string_view state;    // of a vehicle
    std::string occurred_at;
    bool may_be_stored = false;  // an earlier attempt ended unknown
};

/// What became of the requests; everything that is left in the directory.
class Record {
public:
    explicit Record(const Plan& plan) : plan_(plan) {
        progress_ = open((plan.directory + "/progress").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (progress_ < 0) fail("cannot write progress");
        if (plan.journal) {
            journal_.reset(std::fopen((plan.directory + "/journal").c_str(), "we"));
            if (!journal_) fail("cannot write journal");
        }
    }
    ~Record() { close(progress_); }
    Record(const Record&) = delete;
    Record& operator=(const Record&) = delete;

    [[nodiscard]] std::string entity_name(const Request& request) const {
        if (request.is_vehicle) return std::to_string(request.entity);
        return plan_.keys == 1 ? plan_.prefix : plan_.prefix + std::to_string(request.entity);
    }

    void finish(const Request& request, Outcome outcome, std::string_view token) {
        finished_ += 1;
        auto& sum = sums_[{request.is_vehicle, request.entity}][static_cast<std::size_t>(outcome)];
        sum.count += 1;
        sum.value += request.value;
        totals_[static_cast<std::size_t>(outcome)] += 1;
        if (!journal_) return;
        const auto name = entity_name(request);
        if (std::fprintf(journal_.get(), "%s %llu %s %s %lld %.*s\n",
                         kOutcomes[static_cast<std::size_t>(outcome)].data(),
                         static_cast<unsigned long long>(request.number), request.is_vehicle ? "vehicles" : "counters",
                         name.c_str(), static_cast<long long>(request.value), static_cast<int>(token.size()),
                         token.data()) < 0) {
            fail("cannot write journal");
        }
    }

    /// One attempt's answer, or none.
    void answered(Outcome outcome, Clock::duration latency, Clock::time_point now) {
        latencies_[static_cast<std::size_t>(outcome)].push_back(
            static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::microseconds>(latency).count()));
        if (outcome != Outcome::acked) return;
        if (last_ack_) longest_gap_ = std::max(longest_gap_, now - *last_ack_);
        last_ack_ = now;
    }
    void closed_unanswered() { closed_ += 1; }
    void hung() { hung_ += 1; }
    void not_connected() { not_connected_ += 1; }
    void retried() { retried_ += 1; }
    /// An answer that breaks the contract's form; the first is kept whole.
    void odd(std::string_view answer) {
        odd_ += 1;
        if (first_odd_.empty()) first_odd_ = answer.substr(0, 2'000);
    }

    [[nodiscard]] std::uint64_t finished() const { return finished_; }

    /// "acked refused unknown other", ten digits each: a reader sees the old line or the new one.
    void write_progress() const {
        char line[64];
        const int length =
            std::snprintf(line, sizeof line, "%010llu %010llu %010llu %010llu\n",
                          static_cast<unsigned long long>(totals_[0]), static_cast<unsigned long long>(totals_[1]),
                          static_cast<unsigned long long>(totals_[2]), static_cast<unsigned long long>(totals_[3]));
        if (pwrite(progress_, line, static_cast<std::size_t>(length), 0) != length) fail("cannot write progress");
    }

    void write_result(Clock::duration took) {
        std::string out = "{";
        for (std::size_t i = 0; i < kOutcomes.size(); ++i) {
            append(out, kOutcomes[i], totals_[i]);
        }
        append(out, "closed", closed_);
        append(out, "hung", hung_);
        append(out, "not_connected", not_connected_);
        append(out, "retried", retried_);
        append(out, "odd", odd_);
        out += "\"first_odd\":\"" + hex(first_odd_) + "\",";
        append(out, "took_ms", static_cast<std::uint64_t>(took / milliseconds(1)));
        append(out, "longest_gap_ms", static_cast<std::uint64_t>(longest_gap_ / milliseconds(1)));
        out += "\"latency_us\":{";
        for (std::size_t i = 0; i < kOutcomes.size(); ++i) {
            auto& all = latencies_[i];
            std::sort(all.begin(), all.end());
            const auto at = [&all](double share) {
                if (all.empty()) return std::uint32_t{0};
                return all[static_cast<std::size_t>(share * static_cast<double>(all.size() - 1))];
            };
            out += "\"" + std::string(kOutcomes[i]) + "\":[" + std::to_string(at(0.5)) + "," +
                   std::to_string(at(0.99)) + "," + std::to_string(at(1)) + "],";
        }
        out.back() = '}';
        out += ",\"entities\":{";
        for (const auto& [place, by_outcome] : sums_) {
            Request request;
            request.is_vehicle = place.first;
            request.entity = place.second;
            out += (place.first ? "\"vehicles/" : "\"counters/") + entity_name(request) + "\":[";
            for (const auto& sum : by_outcome)
                out += "[" + std::to_string(sum.count) + "," + std::to_string(sum.value) + "],";
            out.back() = ']';
            out += ',';
        }
        if (out.back() == ',') out.pop_back();
        out += "}}\n";
        const std::unique_ptr<std::FILE, Close> file(std::fopen((plan_.directory + "/result.json").c_str(), "we"));
        if (!file || std::fwrite(out.data(), 1, out.size(), file.get()) != out.size() || std::fflush(file.get()) != 0) {
            fail("cannot write result.json");
        }
    }

private:
    struct Close {
        void operator()(std::FILE* file) const { std::fclose(file); }
    };
    struct Sum {
        std::uint64_t count = 0;
        std::int64_t value = 0;
    };

    static void append(std::string& out, std::string_view name, std::uint64_t number) {
        out.append("\"").append(name).append("\":").append(std::to_string(number)).append(",");
    }
    static std::string hex(std::string_view bytes) {
        constexpr std::string_view kDigits = "0123456789abcdef";
        std::string out;
        for (const char c : bytes) {
            const auto byte = static_cast<unsigned char>(c);
            out += kDigits[byte >> 4U];
            out += kDigits[byte & 15U];
        }
        return out;
    }

    const Plan& plan_;
    int progress_ = -1;
    std::unique_ptr<std::FILE, Close> journal_;
    std::map<std::pair<bool, std::uint64_t>, std::array<Sum, 4>> sums_;
    std::array<std::uint64_t, 4> totals_{};
    std::array<std::vector<std::uint32_t>, 4> latencies_;
    std::optional<Clock::time_point> last_ack_;
    Clock::duration longest_gap_{};
    std::uint64_t finished_ = 0;
    std::uint64_t closed_ = 0;
    std::uint64_t hung_ = 0;
    std::uint64_t not_connected_ = 0;
    std::uint64_t retried_ = 0;
    std::uint64_t odd_ = 0;
    std::string first_odd_;
};

/// A whole answer, as far as the outcome needs it. Views point into the connection's buffer.
struct Answer {
    int status = 0;
    bool closes = false;
    bool retry_after = false;
    std::string_view token;
    std::string_view body;
    std::size_t size = 0;
};

bool equals_ignoring_case(std::string_view a, std::string_view b) {
    return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

/// Nullopt: not all of it is there yet. Throws std::invalid_argument when it is no answer.
std::optional<Answer> read_answer(std::string_view bytes) {
    const auto head = bytes.find("\r\n\r\n");
    if (head == std::string_view::npos) return std::nullopt;
    if (bytes.size() < 12 || bytes.substr(0, 9) != "HTTP/1.1 ") throw std::invalid_argument("no HTTP/1.1 answer");
    Answer answer;
    answer.status = to_number<int>(bytes.substr(9, 3));
    std::size_t length = 0;
    for (std::size_t at = bytes.find("\r\n") + 2; at < head + 2;) {
        const auto end = bytes.find("\r\n", at);
        const auto line = bytes.substr(at, end - at);
        const auto colon = std::min(line.find(':'), line.size());
        const auto name = line.substr(0, colon);
        auto value = line.substr(std::min(colon + 1, line.size()));
        while (!value.empty() && value.front() == ' ')
            value.remove_prefix(1);
        if (equals_ignoring_case(name, "Content-Length")) length = to_number<std::size_t>(value);
        if (equals_ignoring_case(name, "Connection")) answer.closes = equals_ignoring_case(value, "close");
        if (equals_ignoring_case(name, "Retry-After")) answer.retry_after = true;
        if (equals_ignoring_case(name, "Log-Position")) answer.token = value;
        at = end + 2;
    }
    answer.size = head + 4 + length;
    if (bytes.size() < answer.size) return std::nullopt;
    answer.body = bytes.substr(head + 4, length);
    return answer;
}

Outcome outcome_of(const Answer& answer) {
    if (answer.status >= 200 && answer.status < 300) return Outcome::acked;
    if (answer.status != 503) return Outcome::other;
    return answer.body.find("\"outcome\":\"unknown\"") == std::string_view::npos ? Outcome::refused : Outcome::unknown;
}

/// Whether the answer has the form that the contract gives to its status.
bool is_well_formed(const Answer& answer) {
    if (answer.status == 202) return !answer.token.empty() && answer.body.empty();
    if (answer.status == 503)
        return answer.retry_after && answer.body.find("\"type\":\"/problems/") != std::string_view::npos;
    return false;
}

struct Connection {
    int fd = -1;
    bool connected = false;
    std::size_t server = 0;
    std::optional<Request> request;
    std::string out;
    std::size_t sent = 0;
    std::string in;
    Clock::time_point began{};
    Clock::time_point connect_at{};
    Clock::time_point send_at{};
};

class Load {
public:
    explicit Load(const Plan& plan) : plan_(plan), record_(plan), random_(plan.seed), connections_(plan.connections) {
        epoll_ = epoll_create1(EPOLL_CLOEXEC);
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGTERM);
        sigaddset(&signals, SIGINT);
        if (sigprocmask(SIG_BLOCK, &signals, nullptr) != 0) fail("cannot block signals");
        signal_ = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = kSignal;
        if (epoll_ < 0 || signal_ < 0 || epoll_ctl(epoll_, EPOLL_CTL_ADD, signal_, &event) != 0)
            fail("cannot watch signals");
        for (std::size_t i = 0; i < connections_.size(); ++i)
            connections_[i].server = i % plan_.servers.size();
    }
    ~Load() {
        for (auto& connection : connections_) {
            if (connection.fd >= 0) close(connection.fd);
        }
        close(signal_);
        close(epoll_);
    }
    Load(const Load&) = delete;
    Load& operator=(const Load&) = delete;

    void run() {
        const auto start = Clock::now();
        start_ = start;
        auto next_round = start;
        std::array<epoll_event, 256> events;
        while (!done()) {
            const int count = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 5);
            if (count < 0 && errno != EINTR) fail("epoll_wait");
            for (int i = 0; i < count; ++i) {
                const auto& event = events[static_cast<std::size_t>(i)];
                if (event.data.u64 == kSignal) {
                    signalfd_siginfo info;
                    if (read(signal_, &info, sizeof info) == sizeof info) stop();
                } else {
                    serve(connections_[event.data.u64], event.events);
                }
            }
            const auto now = Clock::now();
            if (now < next_round && plan_.rate == 0) continue;
            for (auto& connection : connections_)
                tend(connection, now);
            if (now >= next_round) {
                record_.write_progress();
                next_round = now + milliseconds(20);
            }
        }
        for (auto& connection : connections_) {
            if (connection.request) record_.finish(*connection.request, Outcome::unknown, {});
        }
        for (const auto& request : again_) {
            record_.finish(request, request.may_be_stored ? Outcome::unknown : Outcome::refused, {});
        }
        record_.write_progress();
        record_.write_result(Clock::now() - start);
    }

private:
    static constexpr std::uint64_t kSignal = UINT64_MAX;
    static constexpr milliseconds kReconnect{20};
    // Much less than the Retry-After, which is meant for clients that are many; enough not to spin.
    static constexpr milliseconds kAfterRefusal{50};

    void stop() {
        if (!stopping_) stop_at_ = Clock::now() + plan_.timeout + milliseconds(1'000);
        stopping_ = true;
    }

    [[nodiscard]] bool done() const {
        if (record_.finished() >= plan_.requests) return true;
        if (!stopping_) return false;
        if (Clock::now() > stop_at_) return true;
        return again_.empty() &&
               std::none_of(connections_.begin(), connections_.end(),
                            [](const Connection& connection) { return connection.request.has_value(); });
    }

    /// Whatever a connection needs that no event brings.
    void tend(Connection& connection, Clock::time_point now) {
        if (connection.fd < 0) {
            if (now >= connection.connect_at) connect_now(connection, now);
        } else if (connection.request && now - connection.began > plan_.timeout) {
            record_.hung();
            lose(connection, now);
        } else if (connection.connected && !connection.request) {
            send_next(connection, now);
        }
    }

    void connect_now(Connection& connection, Clock::time_point now) {
        connection.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (connection.fd < 0) fail("socket");
        const int on = 1;
        setsockopt(connection.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        const auto& address = plan_.servers[connection.server];
        epoll_event event{};
        event.events = EPOLLIN | EPOLLOUT | EPOLLET;
        event.data.u64 = static_cast<std::uint64_t>(&connection - connections_.data());
        if (epoll_ctl(epoll_, EPOLL_CTL_ADD, connection.fd, &event) != 0) fail("epoll_ctl");
        if (connect(connection.fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
            errno != EINPROGRESS) {
            lose(connection, now);
        }
    }

    /// The connection is gone; what was under way on it may or may not have been stored.
    void lose(Connection& connection, Clock::time_point now) {
        close(connection.fd);
        connection.fd = -1;
        if (!connection.connected) record_.not_connected();
        connection.connected = false;
        connection.in.clear();
        connection.connect_at = now + kReconnect;
        if (connection.request) {
            record_.answered(Outcome::unknown, now - connection.began, now);
            settle(connection, connection.sent > 0 ? Outcome::unknown : Outcome::refused, {});
        }
        // Where one server is gone its retries go to the next; without retries each connection stays with its server.
        if (plan_.retry) connection.server = (connection.server + 1) % plan_.servers.size();
    }

    void settle(Connection& connection, Outcome outcome, std::string_view token) {
        auto request = *std::move(connection.request);
        connection.request.reset();
        if (plan_.retry && (outcome == Outcome::unknown || outcome == Outcome::refused)) {
            request.may_be_stored = request.may_be_stored || outcome == Outcome::unknown;
            again_.push_back(std::move(request));
            return;
        }
        record_.finish(request, outcome, token);
    }

    void serve(Connection& connection, std::uint32_t events) {
        if (connection.fd < 0) return;
        const auto now = Clock::now();
        if (!connection.connected) {
            int error = 0;
            socklen_t size = sizeof error;
            getsockopt(connection.fd, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error != 0 || (events & EPOLLERR) != 0) return lose(connection, now);
            if ((events & EPOLLOUT) == 0) return;
            connection.connected = true;
        }
        if (connection.request && connection.sent < connection.out.size() && !write_some(connection))
            return lose(connection, now);
        if (!read_some(connection, now)) return lose(connection, now);
        if (connection.fd >= 0 && connection.connected && !connection.request) send_next(connection, now);
    }

    /// False: the connection is gone.
    bool write_some(Connection& connection) {
        while (connection.sent < connection.out.size()) {
            const auto count = send(connection.fd, connection.out.data() + connection.sent,
                                    connection.out.size() - connection.sent, MSG_NOSIGNAL);
            if (count < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
            connection.sent += static_cast<std::size_t>(count);
        }
        return true;
    }

    /// False: the connection is gone, or has to go.
    bool read_some(Connection& connection, Clock::time_point now) {
        char chunk[4096];
        while (true) {
            const auto count = recv(connection.fd, chunk, sizeof chunk, 0);
            if (count < 0) return errno == EAGAIN || errno == EWOULDBLOCK;
            if (count == 0) {
                if (connection.request) record_.closed_unanswered();
                return false;
            }
            connection.in.append(chunk, static_cast<std::size_t>(count));
            const auto answer = read_answer(connection.in);
            if (!answer) continue;
            if (!connection.request) {  // turned away before anything was sent
                record_.odd(connection.in);
                return false;
            }
            const auto outcome = outcome_of(*answer);
            if (!is_well_formed(*answer)) record_.odd(connection.in);
            record_.answered(outcome, now - connection.began, now);
            const bool closes = answer->closes;
            settle(connection, outcome, answer->token);
            connection.in.clear();
            if (outcome == Outcome::refused) connection.send_at = now + kAfterRefusal;
            if (closes) return false;
        }
    }

    void send_next(Connection& connection, Clock::time_point now) {
        if (now < connection.send_at) return;
        if (!again_.empty()) {
            connection.request = std::move(again_.front());
            again_.pop_front();
            record_.retried();
        } else {
            if (stopping_ || numbered_ >= plan_.requests) return;
            if (plan_.rate > 0) {
                const std::chrono::duration<double> elapsed = now - start_;
                if (static_cast<double>(numbered_) >= plan_.rate * elapsed.count()) return;
            }
            connection.request = next_request();
        }
        connection.out = render(*connection.request);
        connection.sent = 0;
        connection.began = now;
        if (!write_some(connection)) lose(connection, now);
    }

    std::uint64_t pick(std::uint64_t below) {
        return std::uniform_int_distribution<std::uint64_t>(0, below - 1)(random_);
    }

    Request next_request() {
        Request request;
        request.number = numbered_++;
        request.is_vehicle = plan_.vehicles > 0 && pick(100) < plan_.vehicle_percent;
        if (request.is_vehicle) {
            constexpr std::array<std::string_view, 3> kStates{"quoted", "selling", "sold"};
            request.entity = plan_.first_vehicle + pick(plan_.vehicles);
            request.state = kStates[pick(3)];
            // Up to an hour ago, so that events arrive out of order.
            const std::time_t at = std::time(nullptr) - static_cast<std::time_t>(pick(3'600));
            std::tm parts{};
            gmtime_r(&at, &parts);
            char text[32];
            request.occurred_at.assign(text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts));
        } else {
            request.entity = pick(plan_.keys);
            request.value = std::uniform_int_distribution<std::int64_t>(plan_.lowest, plan_.highest)(random_);
        }
        return request;
    }

    std::string render(const Request& request) {
        char buffer[512];
        int length = 0;
        if (request.is_vehicle) {
            length = std::snprintf(buffer, sizeof buffer, R"({"state":"%.*s","occurredAt":"%s"})",
                                   static_cast<int>(request.state.size()), request.state.data(),
                                   request.occurred_at.c_str());
        } else {
            length = std::snprintf(buffer, sizeof buffer, R"({"key":"%s","value":%lld})",
                                   record_.entity_name(request).c_str(), static_cast<long long>(request.value));
        }
        const std::string body(buffer, static_cast<std::size_t>(length));
        std::string out =
            request.is_vehicle ? "POST /vehicles/" + std::to_string(request.entity) + "/states" : "POST /increment";
        out += " HTTP/1.1\r\nHost: tidemark\r\nContent-Type: application/json\r\n";
        length =
            std::snprintf(buffer, sizeof buffer, "traceparent: 00-%016llx%016llx-00f067aa0ba902b7-01\r\n",
                          static_cast<unsigned long long>(plan_.run), static_cast<unsigned long long>(request.number));
        out.append(buffer, static_cast<std::size_t>(length));
        if (plan_.retry) {
            out += "Idempotency-Key: " + std::to_string(plan_.run) + "-" + std::to_string(request.number) + "\r\n";
        }
        out += "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
        return out;
    }

    const Plan& plan_;
    Record record_;
    std::mt19937_64 random_;
    std::vector<Connection> connections_;
    std::deque<Request> again_;
    int epoll_ = -1;
    int signal_ = -1;
    std::uint64_t numbered_ = 0;
    bool stopping_ = false;
    Clock::time_point start_{};
    Clock::time_point stop_at_{};
};

}  // namespace

int main(int argc, char** argv) {
    try {
        // A load without the test that reads its result is of no use.
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        const Plan plan = read_plan(argc, argv);
        Load(plan).run();
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "tidemark-load: %s\n", error.what());
        return 1;
    }
}
