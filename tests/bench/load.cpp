// bench-load: POSTs increments over kept connections, a fixed number of them, so that what was acknowledged can be held
// against the log and the tables to the last event. It stays as lean as a load can be, because it shares a core with
// the broker: requests are rendered once, answers are only looked at for their status and length.
//
// It speaks in three steps. Having connected and sent --warm requests it prints "ready" and waits for a line on
// standard input; then it sends --requests more and prints one line of JSON about those; then it keeps its connections
// open until standard input ends. So a measurement has neither connecting nor disconnecting in it.
//
// Without --rate the loop is closed: each connection sends when it has been answered. With it the loop is open: request
// n is due at start + n / rate, whether or not the server keeps up, and its latency counts from then.
//
// With --requests 0 it sends until another line comes on standard input. --method GET reads the counters instead.
// --trace FILE gets three doubles for each request: when its answer came, in seconds since the epoch; its latency in
// microseconds; and how old the answer said that it was (Data-As-Of), in seconds, NaN where it said nothing.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <deque>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

struct Plan {
    std::string address = "127.0.0.1";
    std::uint16_t port = 0;
    std::string path = "/increment";
    std::string prefix = "key-";
    std::size_t connections = 64;
    std::uint64_t keys = 1'000;
    std::uint64_t warm = 0;
    std::uint64_t requests = 0;
    double rate = 0;
    bool reads = false;
    std::string trace;
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

Plan read_plan(int argc, char** argv) {
    Plan plan;
    if (argc % 2 == 0) throw std::invalid_argument("an option without a value");
    for (int i = 1; i < argc; i += 2) {
        const std::string_view name = argv[i];
        const std::string value = argv[i + 1];
        if (name == "--to") {
            const auto colon = value.rfind(':');
            plan.address = value.substr(0, colon);
            plan.port = to_number<std::uint16_t>(std::string_view(value).substr(colon + 1));
        } else if (name == "--path") {
            plan.path = value;
        } else if (name == "--prefix") {
            plan.prefix = value;
        } else if (name == "--connections") {
            plan.connections = to_number<std::size_t>(value);
        } else if (name == "--keys") {
            plan.keys = to_number<std::uint64_t>(value);
        } else if (name == "--warm") {
            plan.warm = to_number<std::uint64_t>(value);
        } else if (name == "--requests") {
            plan.requests = to_number<std::uint64_t>(value);
        } else if (name == "--rate") {
            plan.rate = to_number<double>(value);
        } else if (name == "--method") {
            if (value != "GET" && value != "POST") throw std::invalid_argument("not a method: " + value);
            plan.reads = value == "GET";
        } else if (name == "--trace") {
            plan.trace = value;
        } else {
            throw std::invalid_argument("unknown option " + std::string(name));
        }
    }
    if (plan.port == 0 || plan.connections == 0 || plan.keys == 0) {
        throw std::invalid_argument("needs at least --to ADDRESS:PORT");
    }
    return plan;
}

struct Connection {
    int fd = -1;
    std::array<char, 4096> in{};
    std::size_t filled = 0;
    Clock::time_point due{};
};

class Load {
public:
    explicit Load(const Plan& plan) : plan_(plan), connections_(plan.connections) {
        requests_.reserve(plan.keys);
        for (std::uint64_t key = 0; key < plan.keys; ++key) {
            if (plan.reads) {
                requests_.push_back("GET /counters/" + plan.prefix + std::to_string(key) +
                                    " HTTP/1.1\r\nHost: " + plan.address + "\r\n\r\n");
                continue;
            }
            const auto body = R"({"key":")" + plan.prefix + std::to_string(key) + R"(","value":1})";
            requests_.push_back("POST " + plan.path + " HTTP/1.1\r\nHost: " + plan.address +
                                "\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
                                "\r\n\r\n" + body);
        }
        epoll_ = epoll_create1(EPOLL_CLOEXEC);
        timer_ = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        if (epoll_ < 0 || timer_ < 0) fail("cannot make an event loop");
        watch(timer_, kTimer);
        for (std::size_t i = 0; i < connections_.size(); ++i)
            connect_to_server(i);
    }
    ~Load() {
        for (const auto& connection : connections_)
            close(connection.fd);
        close(timer_);
        close(epoll_);
    }
    Load(const Load&) = delete;
    Load& operator=(const Load&) = delete;

    void run() {
        exchange(plan_.warm, 0);
        std::puts("ready");
        std::fflush(stdout);
        if (std::getchar() == EOF) return;
        if (!plan_.trace.empty()) {
            trace_ = std::fopen(plan_.trace.c_str(), "wb");
            if (trace_ == nullptr) fail("cannot write the trace");
        }
        if (plan_.requests == 0) watch(STDIN_FILENO, kStop);
        exchange(plan_.requests == 0 ? UINT64_MAX : plan_.requests, plan_.rate);
        if (trace_ != nullptr && std::fclose(trace_) != 0) fail("cannot write the trace");
        print();
        std::fflush(stdout);
        while (std::getchar() != EOF) {
        }
    }

private:
    static constexpr std::uint64_t kTimer = UINT64_MAX;
    static constexpr std::uint64_t kStop = UINT64_MAX - 1;

    void watch(int fd, std::uint64_t as) const {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u64 = as;
        if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) fail("epoll_ctl");
    }

    void connect_to_server(std::size_t index) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(plan_.port);
        if (inet_pton(AF_INET, plan_.address.c_str(), &address.sin_addr) != 1) {
            throw std::invalid_argument("not an IPv4 address: " + plan_.address);
        }
        const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) fail("socket");
        const int on = 1;
        if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) fail("TCP_NODELAY");
        if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fail("connect");
        connections_[index].fd = fd;
        watch(fd, index);
    }

    /// Sends that many and waits for all answers.
    void exchange(std::uint64_t count, double rate) {
        wanted_ = count;
        rate_ = rate;
        sent_ = 0;
        answered_ = 0;
        statuses_.clear();
        latencies_.clear();
        latencies_.reserve(std::min<std::uint64_t>(count, 1'000'000));
        idle_.clear();
        for (std::size_t i = 0; i < connections_.size(); ++i)
            idle_.push_back(i);
        start_ = Clock::now();
        send_due(start_);
        std::array<epoll_event, 512> events;
        while (answered_ < wanted_) {
            constexpr int kNothingForMs = 30'000;
            const int ready = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), kNothingForMs);
            if (ready < 0 && errno != EINTR) fail("epoll_wait");
            if (ready == 0)
                throw std::runtime_error("no answer for 30 s; " + std::to_string(answered_) + " came before");
            const auto now = Clock::now();
            for (int i = 0; i < ready; ++i) {
                const auto as = events[static_cast<std::size_t>(i)].data.u64;
                if (as == kTimer) {
                    std::uint64_t expirations = 0;
                    if (read(timer_, &expirations, sizeof expirations) < 0 && errno != EAGAIN) fail("timer");
                } else if (as == kStop) {
                    // Left unread, for run() to see; what is under way is still answered.
                    if (epoll_ctl(epoll_, EPOLL_CTL_DEL, STDIN_FILENO, nullptr) != 0) fail("epoll_ctl");
                    wanted_ = sent_;
                } else {
                    receive(as, now);
                }
            }
            send_due(now);
        }
        took_ = Clock::now() - start_;
    }

    [[nodiscard]] Clock::time_point due_at(std::uint64_t number) const {
        return start_ + std::chrono::duration_cast<nanoseconds>(
                            std::chrono::duration<double>(static_cast<double>(number) / rate_));
    }

    /// Sends what is due on the connections that are free; sets the timer for what is due next.
    void send_due(Clock::time_point now) {
        while (!idle_.empty() && sent_ < wanted_) {
            const auto due = rate_ > 0 ? due_at(sent_) : now;
            if (due > now) {
                const auto since = std::chrono::duration_cast<nanoseconds>(due.time_since_epoch()).count();
                itimerspec when{};
                when.it_value.tv_sec = since / 1'000'000'000;
                when.it_value.tv_nsec = since % 1'000'000'000;
                if (timerfd_settime(timer_, TFD_TIMER_ABSTIME, &when, nullptr) != 0) fail("timerfd_settime");
                return;
            }
            auto& connection = connections_[idle_.front()];
            idle_.pop_front();
            connection.due = due;
            const auto& request = requests_[total_++ % requests_.size()];
            if (send(connection.fd, request.data(), request.size(), MSG_NOSIGNAL) !=
                static_cast<ssize_t>(request.size())) {
                fail("send");
            }
            ++sent_;
        }
    }

    void receive(std::size_t index, Clock::time_point now) {
        auto& connection = connections_[index];
        const auto count = recv(connection.fd, connection.in.data() + connection.filled,
                                connection.in.size() - connection.filled, MSG_DONTWAIT);
        if (count < 0) {
            if (errno == EAGAIN || errno == EINTR) return;
            fail("recv");
        }
        if (count == 0) throw std::runtime_error("the server closed a connection, or its answer is longer than 4 KiB");
        connection.filled += static_cast<std::size_t>(count);
        const std::string_view bytes(connection.in.data(), connection.filled);
        const auto size = answer_size(bytes);
        if (bytes.size() < size) return;
        if (bytes.size() > size) throw std::runtime_error("more than one answer to a request");
        statuses_[to_number<int>(bytes.substr(9, 3))] += 1;
        const auto latency = std::chrono::duration_cast<std::chrono::microseconds>(now - connection.due).count();
        latencies_.push_back(static_cast<std::uint32_t>(latency));
        if (trace_ != nullptr) {
            const std::chrono::duration<double> at = std::chrono::system_clock::now().time_since_epoch();
            const std::array<double, 3> line{at.count(), static_cast<double>(latency), age(bytes, at.count())};
            if (std::fwrite(line.data(), sizeof line, 1, trace_) != 1) fail("cannot write the trace");
        }
        connection.filled = 0;
        ++answered_;
        idle_.push_back(index);
    }

    /// Of the whole answer; SIZE_MAX while its head is not complete.
    static std::size_t answer_size(std::string_view bytes) {
        const auto head = bytes.find("\r\n\r\n");
        if (head == std::string_view::npos) return SIZE_MAX;
        if (bytes.substr(0, 9) != "HTTP/1.1 ") throw std::runtime_error("no HTTP/1.1 answer");
        constexpr std::string_view kLength = "content-length:";
        for (std::size_t at = bytes.find("\r\n") + 2; at < head + 2; at = bytes.find("\r\n", at) + 2) {
            if (strncasecmp(bytes.data() + at, kLength.data(), kLength.size()) != 0) continue;
            auto value = bytes.substr(at + kLength.size(), bytes.find("\r\n", at) - at - kLength.size());
            while (!value.empty() && value.front() == ' ')
                value.remove_prefix(1);
            return head + 4 + to_number<std::size_t>(value);
        }
        throw std::runtime_error("an answer without Content-Length");
    }

    /// In seconds, by Data-As-Of, which is an instant of UTC.
    static double age(std::string_view answer, double now) {
        constexpr std::string_view kAsOf = "data-as-of:";
        const auto head = answer.find("\r\n\r\n");
        for (std::size_t at = answer.find("\r\n") + 2; at < head + 2; at = answer.find("\r\n", at) + 2) {
            if (strncasecmp(answer.data() + at, kAsOf.data(), kAsOf.size()) != 0) continue;
            const std::string text(answer.substr(at + kAsOf.size(), answer.find("\r\n", at) - at - kAsOf.size()));
            std::tm utc{};
            const char* fraction = strptime(text.c_str(), " %Y-%m-%dT%H:%M:%S", &utc);
            if (fraction == nullptr) throw std::runtime_error("no instant:" + text);
            return now - static_cast<double>(timegm(&utc)) - std::strtod(fraction, nullptr);
        }
        return std::nan("");
    }

    void print() {
        std::sort(latencies_.begin(), latencies_.end());
        const auto at = [this](double share) {
            if (latencies_.empty()) return 0U;
            return latencies_[static_cast<std::size_t>(share * static_cast<double>(latencies_.size() - 1))];
        };
        std::printf(R"({"seconds":%.6f,"latency_us":{"p50":%u,"p90":%u,"p99":%u,"p999":%u,"max":%u},"statuses":{)",
                    std::chrono::duration<double>(took_).count(), at(0.5), at(0.9), at(0.99), at(0.999), at(1));
        const char* separator = "";
        for (const auto& [status, count] : statuses_) {
            std::printf(R"(%s"%d":%llu)", separator, status, static_cast<unsigned long long>(count));
            separator = ",";
        }
        std::puts("}}");
    }

    const Plan& plan_;
    std::vector<Connection> connections_;
    std::vector<std::string> requests_;
    std::FILE* trace_ = nullptr;
    std::deque<std::size_t> idle_;
    std::map<int, std::uint64_t> statuses_;
    std::vector<std::uint32_t> latencies_;
    int epoll_ = -1;
    int timer_ = -1;
    std::uint64_t wanted_ = 0;
    double rate_ = 0;
    std::uint64_t sent_ = 0;
    std::uint64_t answered_ = 0;
    std::uint64_t total_ = 0;  // over both exchanges: every key is sent equally often
    Clock::time_point start_{};
    Clock::duration took_{};
};

}  // namespace

int main(int argc, char** argv) {
    try {
        // A load without the one who measures is of no use.
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        const Plan plan = read_plan(argc, argv);
        Load(plan).run();
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "bench-load: %s\n", error.what());
        return 1;
    }
}
