#include "infra/http/server.h"

#include "tests/unit/http/client.h"

#include <doctest/doctest.h>

#include <dirent.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace tidemark::http {
namespace {

using namespace std::chrono_literals;
using tests::Client;
using tests::eventually;
using Clock = std::chrono::steady_clock;

/// Runs what it is given, in order, on a thread that is no event loop.
class Worker {
public:
    ~Worker() {
        {
            const std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        changed_.notify_one();
        thread_.join();
    }

    void run(std::function<void()> work) {
        {
            const std::lock_guard lock(mutex_);
            work_.push_back(std::move(work));
        }
        changed_.notify_one();
    }

private:
    void loop() {
        std::unique_lock lock(mutex_);
        while (true) {
            changed_.wait(lock, [this] { return stopping_ || !work_.empty(); });
            if (work_.empty()) return;
            auto work = std::move(work_.front());
            work_.pop_front();
            lock.unlock();
            work();
            lock.lock();
        }
    }

    std::mutex mutex_;  // guards work_ and stopping_
    std::condition_variable changed_;
    std::deque<std::function<void()>> work_;
    bool stopping_ = false;
    std::thread thread_{[this] { loop(); }};
};

/// Replies that a test answers when it likes.
class Held {
public:
    void hold(Reply reply) {
        const std::lock_guard lock(mutex_);
        replies_.push_back(std::move(reply));
    }
    [[nodiscard]] std::size_t size() {
        const std::lock_guard lock(mutex_);
        return replies_.size();
    }
    Reply take() {
        REQUIRE(eventually([this] { return size() > 0; }));
        const std::lock_guard lock(mutex_);
        auto reply = std::move(replies_.front());
        replies_.erase(replies_.begin());
        return reply;
    }

private:
    std::mutex mutex_;  // guards replies_
    std::vector<Reply> replies_;
};

/// A server with the routes that the tests need:
///   POST /echo answers its body at once, POST /async from one of two other threads, /hold when the test says so,
///   GET /big/{bytes} answers that many bytes, /drop loses its Reply, /throw throws, /peer tells the peer's address.
struct Fixture {
    explicit Fixture(ServerOptions options = {}, const std::function<void(Fixture&)>& add = {}) {
        router.add({.method = Method::post, .path = "/echo", .handler = [](const Request& request, Reply reply) {
                        reply.send(200, "text/plain", {}, request.body);
                    }});
        router.add({.method = Method::post, .path = "/async", .handler = [this](const Request& request, Reply reply) {
                        auto& worker = workers[turn++ % workers.size()];
                        auto shared = std::make_shared<Reply>(std::move(reply));
                        worker.run([shared, body = request.body] { shared->send(200, "text/plain", {}, body); });
                    }});
        router.add({.method = Method::post, .path = "/hold", .handler = [this](const Request&, Reply reply) {
                        held.hold(std::move(reply));
                    }});
        router.add({.method = Method::get, .path = "/big/{bytes}", .handler = [](const Request& request, Reply reply) {
                        reply.send(200, "text/plain", {}, std::string(std::stoul(request.params[0]), 'b'));
                    }});
        router.add({.method = Method::post, .path = "/drop", .handler = [](const Request&, const Reply&) {}});
        router.add({.method = Method::post, .path = "/throw", .handler = [](const Request&, const Reply&) {
                        throw std::runtime_error("a bug");
                    }});
        router.add({.method = Method::get, .path = "/peer", .handler = [](const Request& request, Reply reply) {
                        reply.send(200, "text/plain", {}, request.peer_address);
                    }});
        if (add) add(*this);
        options.port = 0;
        if (options.threads == 0) options.threads = 2;
        server.emplace(
            options, router,
            [](int status, std::string_view detail, const Request*) {
                return Response{
                    .status = status, .content_type = "text/plain", .headers = {}, .body = std::string(detail)};
            },
            [this](const Exchange& exchange) {
                const std::lock_guard lock(mutex);
                exchanges.push_back({exchange.status, std::string(exchange.route), exchange.duration});
            });
        server->start();
    }

    Client client() { return Client(server->port()); }
    bool nobody_left() {
        return eventually([this] { return server->counters().open == 0; });
    }

    struct Seen {
        int status;
        std::string route;
        std::chrono::nanoseconds duration;
    };

    Router router;
    std::mutex mutex;  // guards exchanges
    std::vector<Seen> exchanges;
    Held held;
    std::atomic<std::size_t> turn{0};
    std::array<Worker, 2> workers;
    std::optional<Server> server;
};

std::string post(std::string_view path, std::string_view body, std::string_view lines = {}) {
    return "POST " + std::string(path) + " HTTP/1.1\r\nHost: a\r\n" + std::string(lines) +
           "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
}

std::string get(std::string_view path) {
    return "GET " + std::string(path) + " HTTP/1.1\r\nHost: a\r\n\r\n";
}

std::size_t open_descriptors() {
    std::size_t count = 0;
    auto* directory = ::opendir("/proc/self/fd");
    REQUIRE(directory != nullptr);
    while (::readdir(directory) != nullptr)
        ++count;
    ::closedir(directory);
    return count;
}

std::chrono::nanoseconds cpu_time() {
    timespec time{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace

TEST_CASE("a request is answered, and the next one on the same connection") {
    Fixture fixture;
    auto client = fixture.client();
    for (const std::string_view path : {"/echo", "/async", "/echo"}) {
        REQUIRE(client.send(post(path, "hello")));
        const auto answer = client.read();
        CHECK(answer.status == 200);
        CHECK(answer.body == "hello");
        CHECK(answer.head.find("\r\nServer: tidemark\r\nDate: ") != std::string::npos);
    }
    client.send(get("/peer"));
    CHECK(client.read().body == "127.0.0.1");
    CHECK(fixture.server->counters().accepted == 1);
    CHECK(fixture.server->counters().open == 1);
}

TEST_CASE("pipelined requests are answered in order, whoever answers them") {
    Fixture fixture;
    std::vector<std::thread> clients;
    std::atomic<int> good{0};
    for (int c = 0; c < 8; ++c) {
        clients.emplace_back([&fixture, &good, c] {
            auto client = fixture.client();
            for (int round = 0; round < 5; ++round) {
                std::string bytes;
                std::vector<std::string> expected;
                for (int i = 0; i < 60; ++i) {
                    expected.push_back(std::to_string(c) + "-" + std::to_string(round) + "-" + std::to_string(i) +
                                       std::string(static_cast<std::size_t>(i * 7 % 300), 'x'));
                    bytes += post((i * 13 + c) % 3 == 0 ? "/async" : "/echo", expected.back());
                }
                if (!client.send(bytes)) return;
                for (const auto& body : expected) {
                    if (client.read().body != body) return;
                }
            }
            ++good;
        });
    }
    for (auto& client : clients)
        client.join();
    CHECK(good == 8);
}

TEST_CASE("answers from other threads arrive while many connections are open") {
    Fixture fixture;
    std::vector<Client> clients;
    for (int i = 0; i < 200; ++i)
        clients.push_back(fixture.client());
    for (int round = 0; round < 10; ++round) {
        for (std::size_t i = 0; i < clients.size(); ++i)
            clients[i].send(post("/async", std::to_string(i)));
        for (std::size_t i = 0; i < clients.size(); ++i)
            REQUIRE(clients[i].read().body == std::to_string(i));
    }
}

TEST_CASE("smuggled requests: one in, one answered, and the connection ends") {
    Fixture fixture;
    const std::string hidden = get("/peer");
    const std::array bad = {
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n" + hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n" + hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabc" + hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello" + hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello" + hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nAuthorization: Bearer "
        "stolen\r\n\r\n" +
            hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: b\r\n\r\n" + hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;" + std::string(10'000, 'e') +
            "\r\nx\r\n0\r\n\r\n" + hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + std::string(60'000, 't') +
            ": x\r\n\r\n" + hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + hidden,
        "POST /echo HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + hidden,
        "POST /echo HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n" + hidden,
        "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
        "GET http://a/peer HTTP/1.1\r\nHost: a\r\n\r\n" + hidden,
        std::string("GET /peer HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 38) + hidden,
        "GET /peer HTTP/1.1\nHost: a\n\n" + hidden,
        "GET /peer HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n" + hidden,
        "GET /" + std::string(4'000, 'x') + " HTTP/1.1\r\nHost: a\r\n\r\n" + hidden,
        "GET /peer HTTP/1.1\r\nHost: a\r\nX: " + std::string(9'000, 'x') + "\r\n\r\n" + hidden,
    };
    for (const auto& bytes : bad) {
        CAPTURE(bytes.substr(0, 120));
        auto client = fixture.client();
        client.send(bytes);
        const auto answer = client.read();
        CHECK(answer.status >= 400);
        CHECK(answer.closes());
        client.finish_sending();
        CHECK(client.ended());
    }
    CHECK(fixture.server->counters().malformed == bad.size());
    CHECK(fixture.nobody_left());
}

TEST_CASE("a last chunk that arrives byte by byte does no harm") {
    Fixture fixture;
    auto client = fixture.client();
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (const std::string_view byte : {"0", "\r", "\n", "\r", "\n"}) {
        client.send(byte);
        std::this_thread::sleep_for(2ms);  // so that each travels alone; nothing waits for it
    }
    CHECK(client.read().status == 200);
}

TEST_CASE("slow headers and bodies are cut at their total deadline, however they drip") {
    Fixture fixture({.header_deadline = 150ms, .body_deadline = 150ms});
    for (const auto& bytes : {std::string("GET /peer HTTP/1.1\r\nHost: a\r\nX: ") + std::string(100, 'x'),
                              post("/echo", std::string(1'000, 'x'))}) {
        auto client = fixture.client();
        const auto start = Clock::now();
        std::size_t sent = bytes.size() > 900 ? bytes.size() - 900 : 1;
        client.send(bytes.substr(0, sent));
        while (sent < bytes.size() && Clock::now() - start < 10s && client.send(bytes.substr(sent, 1))) {
            ++sent;
            std::this_thread::sleep_for(20ms);
        }
        CHECK(client.read().status == 408);
        CHECK(Clock::now() - start < 5s);
        CHECK(Clock::now() - start >= 150ms);
    }
    CHECK(fixture.server->counters().deadline == 2);
    CHECK(fixture.nobody_left());
}

TEST_CASE("an idle connection is closed without a word") {
    Fixture fixture({.idle_deadline = 100ms});
    auto silent = fixture.client();
    auto used = fixture.client();
    used.send(post("/echo", "x"));
    CHECK(used.read().status == 200);
    CHECK(silent.ended());
    CHECK(used.ended());
    CHECK(fixture.server->counters().deadline == 0);
}

TEST_CASE("a handler that takes too long is answered for, and its reply comes too late") {
    Fixture fixture({.handler_deadline = 100ms});
    auto client = fixture.client();
    client.send(post("/hold", "x"));
    const auto answer = client.read();
    CHECK(answer.status == 503);
    CHECK(answer.head.find("\r\nRetry-After: 1\r\n") != std::string::npos);
    CHECK(answer.closes());
    CHECK(client.ended());
    CHECK(fixture.nobody_left());
    CHECK_FALSE(fixture.held.take().send(200, {}, {}, {}));
    CHECK(fixture.server->counters().deadline == 1);
    CHECK(fixture.server->counters().dropped_replies == 0);
}

TEST_CASE("a reply can move its own deadline, from the handler and from elsewhere") {
    Fixture fixture({.handler_deadline = 100ms}, [](Fixture& self) {
        self.router.add({.method = Method::post, .path = "/short", .handler = [&self](const Request&, Reply reply) {
                             reply.extend_deadline(10);
                             self.held.hold(std::move(reply));
                         }});
    });
    auto client = fixture.client();
    client.send(post("/hold", "x"));
    auto reply = fixture.held.take();
    reply.extend_deadline(60'000);
    auto other = fixture.client();
    const auto start = Clock::now();
    other.send(post("/hold", "x"));
    CHECK(other.read().status == 503);
    CHECK(Clock::now() - start >= 100ms);
    CHECK(reply.send(200, {}, {}, {}));
    CHECK(client.read().status == 200);

    auto shortened = fixture.client();
    shortened.send(post("/short", "x"));
    CHECK(shortened.read().status == 503);
}

TEST_CASE("replies race the handler's deadline, and each request has one answer") {
    Fixture fixture({.handler_deadline = 20ms}, [](Fixture& self) {
        self.router.add({.method = Method::post, .path = "/race", .handler = [&self](const Request&, Reply reply) {
                             auto shared = std::make_shared<Reply>(std::move(reply));
                             const auto n = self.turn++;
                             // About when the deadline is, and one in twenty long after it.
                             const auto at = Clock::now() + std::chrono::milliseconds(n % 20 == 19 ? 80 : 18 + n % 5);
                             self.workers[n % 2].run([shared, at] {
                                 std::this_thread::sleep_until(at);
                                 shared->send(200, {}, {}, {});
                             });
                         }});
    });
    int answered = 0;
    int late = 0;
    for (int i = 0; i < 20; ++i) {
        std::vector<Client> clients;
        for (int c = 0; c < 20; ++c)
            clients.push_back(fixture.client());
        for (auto& client : clients)
            client.send(post("/race", "x"));
        for (auto& client : clients) {
            const auto status = client.read().status;
            if (status == 200) ++answered;
            if (status == 503) ++late;
        }
    }
    CHECK(answered + late == 400);
    CHECK(late > 0);
    CHECK(fixture.nobody_left());
}

TEST_CASE("lost replies and throwing handlers are answered 500 and counted") {
    Fixture fixture;
    auto client = fixture.client();
    client.send(post("/drop", "x") + post("/throw", "x") + post("/echo", "y") + post("/hold", "x"));
    CHECK(client.read().status == 500);
    CHECK(client.read().status == 500);
    CHECK(client.read().status == 200);
    { const auto lost = fixture.held.take(); }
    const auto answer = client.read();
    CHECK(answer.status == 500);
    CHECK(answer.body.find("a bug") == std::string::npos);
    CHECK(fixture.server->counters().dropped_replies == 3);
}

TEST_CASE("a thousand pipelined requests whose answers nobody reads take bounded memory, and then all arrive") {
    Fixture fixture;
    auto client = Client::socket_only();
    client.shrink_receive_buffer();
    client.connect(fixture.server->port());
    std::string bytes;
    for (int i = 0; i < 1'000; ++i)
        bytes += i % 10 == 9 ? post("/async", std::to_string(i)) : get("/big/20000");
    std::thread sender([&] { client.send(bytes); });
    // The kernel takes a few megabytes of the 18; then the server must stop.
    std::size_t handled = 0;
    CHECK(eventually([&] {
        const std::lock_guard lock(fixture.mutex);
        const bool stands = handled == fixture.exchanges.size() && handled > 0;
        handled = fixture.exchanges.size();
        if (!stands) std::this_thread::sleep_for(50ms);
        return stands;
    }));
    CHECK(handled < 900);
    int good = 0;
    for (int i = 0; i < 1'000; ++i) {
        const auto answer = client.read();
        good += i % 10 == 9 ? answer.body == std::to_string(i) : answer.body.size() == 20'000;
    }
    sender.join();
    CHECK(good == 1'000);
}

TEST_CASE("a slow reader is cut at the write deadline") {
    Fixture fixture({.write_deadline = 150ms});
    auto client = Client::socket_only();
    client.shrink_receive_buffer();
    client.connect(fixture.server->port());
    client.send(get("/big/30000000"));
    CHECK(eventually([&] { return fixture.server->counters().deadline == 1; }));
    CHECK(fixture.nobody_left());
    CHECK(client.read().status == 0);
}

TEST_CASE("a large answer reaches a reader that takes its time") {
    Fixture fixture;
    auto client = fixture.client();
    client.send(get("/big/5000000") + post("/echo", "after"));
    CHECK(client.read().body == std::string(5'000'000, 'b'));
    CHECK(client.read().body == "after");
}

TEST_CASE("a client may stop sending and still hears its answer") {
    Fixture fixture;
    auto client = fixture.client();
    client.send(post("/hold", "x"));
    client.finish_sending();
    fixture.held.take().send(201, {}, {}, {});
    CHECK(client.read().status == 201);
    CHECK(client.ended());
}

TEST_CASE("clients that leave at any byte of request or reply leave nothing behind") {
    Fixture fixture;
    const auto descriptors = open_descriptors();
    const auto bytes = post("/async", "hello") + post("/echo", "hello") + post("/async", "hello");
    for (std::size_t length = 0; length <= bytes.size(); ++length) {
        for (const bool reset : {true, false}) {
            auto client = fixture.client();
            client.send(bytes.substr(0, length));
            if (length % 3 == 0) static_cast<void>(client.send_some(bytes.substr(length)));
            if (reset) client.reset();
        }
    }
    auto gone = fixture.client();
    gone.send(post("/hold", "x"));
    auto reply = fixture.held.take();
    gone.reset();
    reply.send(200, {}, {}, {});
    CHECK(fixture.nobody_left());
    CHECK(eventually([&] { return open_descriptors() == descriptors; }));
    CHECK(fixture.server->counters().dropped_replies == 0);
}

TEST_CASE("connections over the shedding mark hear 503, over the maximum nothing, and room is found again") {
    Fixture fixture({.threads = 1, .max_connections = 10});
    std::vector<Client> clients;
    for (int i = 0; i < 9; ++i) {
        clients.push_back(fixture.client());
        clients.back().send(post("/echo", "x"));
        REQUIRE(clients.back().read().status == 200);
    }
    auto shed = fixture.client();
    const auto answer = shed.read();
    CHECK(answer.status == 503);
    CHECK(answer.head.find("\r\nRetry-After: 1\r\n") != std::string::npos);
    CHECK(answer.closes());
    CHECK(fixture.server->counters().shed == 1);
    auto over = fixture.client();
    CHECK(over.ended());
    clients.clear();
    shed.finish_sending();
    CHECK(fixture.nobody_left());
    auto again = fixture.client();
    again.send(post("/echo", "x"));
    CHECK(again.read().status == 200);
}

TEST_CASE("one peer cannot have more than its share of connections") {
    Fixture fixture({.max_connections_per_peer = 3});
    std::vector<Client> clients;
    for (int i = 0; i < 3; ++i) {
        clients.push_back(fixture.client());
        clients.back().send(post("/echo", "x"));
        REQUIRE(clients.back().read().status == 200);
    }
    { CHECK(fixture.client().read().status == 503); }
    clients.clear();
    CHECK(fixture.nobody_left());
    auto again = fixture.client();
    again.send(post("/echo", "x"));
    CHECK(again.read().status == 200);
}

TEST_CASE("without a descriptor left connections are refused one by one, without spinning, and then served again") {
    Fixture fixture({.threads = 1});
    std::vector<Client> clients;
    for (int i = 0; i < 5; ++i)
        clients.push_back(Client::socket_only());
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    int highest = 0;
    for (const auto& client : clients)
        highest = std::max(highest, client.descriptor());
    rlimit low = before;
    low.rlim_cur = static_cast<rlim_t>(highest) + 1;
    // Fill the numbers below the limit, so that the next descriptor is the one that fails.
    std::vector<int> filler;
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &low) == 0);
    for (int fd = ::dup(0); fd >= 0; fd = ::dup(0))
        filler.push_back(fd);

    clients[0].connect(fixture.server->port());
    const auto answer = clients[0].read();
    clients[1].connect(fixture.server->port());
    const auto cpu = cpu_time();
    std::this_thread::sleep_for(300ms);
    const auto used = cpu_time() - cpu;
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
    for (const int fd : filler)
        ::close(fd);

    CHECK(answer.status == 503);
    CHECK(answer.closes());
    CHECK(used < 100ms);
    CHECK(fixture.server->counters().shed >= 1);
    clients[4].connect(fixture.server->port());
    clients[4].send(post("/echo", "x"));
    CHECK(clients[4].read().status == 200);
}

TEST_CASE("draining closes idle connections, answers what is outstanding, and takes no more") {
    auto fixture = std::make_unique<Fixture>();
    const auto port = fixture->server->port();
    auto idle = fixture->client();
    idle.send(post("/echo", "x"));
    CHECK(idle.read().status == 200);
    auto waiting = fixture->client();
    waiting.send(post("/hold", "x") + post("/echo", "never"));
    auto reply = fixture->held.take();
    auto partial = fixture->client();
    partial.send(post("/echo", "hello").substr(0, 30));
    REQUIRE(eventually([&] { return fixture->server->counters().open == 3; }));

    std::thread drain([&] { fixture->server->drain(20s); });
    CHECK(idle.ended());
    CHECK(eventually([port] {
        try {
            const Client late(port);
            return false;
        } catch (const std::system_error&) {
            return true;
        }
    }));
    partial.send(post("/echo", "hello").substr(30));
    CHECK(partial.read().closes());
    partial.finish_sending();
    CHECK(reply.send(202, {}, {}, {}));
    const auto answer = waiting.read();
    CHECK(answer.status == 202);
    CHECK(answer.closes());
    waiting.finish_sending();
    CHECK(waiting.ended());
    drain.join();
    CHECK(fixture->server->counters().open == 0);
}

TEST_CASE("draining under load fails no request that was begun") {
    for (int round = 0; round < 5; ++round) {
        Fixture fixture;
        const auto port = fixture.server->port();
        std::atomic<int> broken{0};
        std::atomic<int> answered{0};
        std::vector<std::thread> clients;
        for (int c = 0; c < 4; ++c) {
            clients.emplace_back([&, c] {
                Client client(port);
                while (client.send(post(c % 2 == 0 ? "/async" : "/echo", "x"))) {
                    const auto answer = client.read();
                    if (answer.status == 0) return;  // closed between two requests: safe to send again elsewhere
                    if (answer.status != 200) ++broken;
                    ++answered;
                    if (answer.closes()) return;
                }
            });
        }
        CHECK(eventually([&] { return answered > 200; }));
        const auto start = Clock::now();
        fixture.server->drain(20s);
        CHECK(Clock::now() - start < 10s);
        for (auto& client : clients)
            client.join();
        CHECK(broken == 0);
        CHECK(fixture.server->counters().open == 0);
    }
}

TEST_CASE("a drain ends when its patience does, and later replies go nowhere") {
    Reply late;
    Reply lost;
    {
        Fixture fixture;
        auto first = fixture.client();
        auto second = fixture.client();
        first.send(post("/hold", "x"));
        late = fixture.held.take();
        second.send(post("/hold", "x"));
        lost = fixture.held.take();
        const auto start = Clock::now();
        fixture.server->drain(100ms);
        CHECK(Clock::now() - start >= 100ms);
        CHECK(Clock::now() - start < 10s);
        CHECK(first.read().status == 0);
        CHECK_FALSE(late.send(200, {}, {}, {}));
    }
    lost.extend_deadline(5);
    CHECK_FALSE(lost.send(200, {}, {}, {}));
}

TEST_CASE("a server that never started, or is destroyed while busy, ends all the same") {
    {
        Router router;
        const Server never({}, router, [](int, std::string_view, const Request*) { return Response(); });
    }
    Fixture fixture;
    auto client = fixture.client();
    client.send(post("/hold", "x"));
    auto reply = fixture.held.take();
    fixture.server.reset();
    CHECK(client.read().status == 0);
}

TEST_CASE("a port that is taken is an error, and so is an address that is none") {
    Fixture fixture;
    const auto start = [&fixture](std::string address, std::uint16_t port) {
        Server second({.address = std::move(address), .port = port, .threads = 2}, fixture.router,
                      [](int, std::string_view, const Request*) { return Response(); });
        second.start();
    };
    CHECK_THROWS_AS(start("127.0.0.1", fixture.server->port()), std::system_error);
    CHECK_THROWS_AS(start("localhost", 0), std::system_error);
    CHECK_THROWS_AS(start("192.0.2.1", 0), std::system_error);
    start("127.0.0.1", 0);
}

TEST_CASE("finished exchanges are observed with their template, status and duration") {
    Fixture fixture;
    auto client = fixture.client();
    client.send(post("/echo", "x") + get("/big/1") + get("/nowhere") + post("/hold", "x"));
    auto reply = fixture.held.take();
    std::this_thread::sleep_for(20ms);  // the duration that must be seen
    reply.send(202, {}, {}, {});
    for (int i = 0; i < 4; ++i)
        client.read();
    REQUIRE(eventually([&] {
        const std::lock_guard lock(fixture.mutex);
        return fixture.exchanges.size() == 4;
    }));
    const std::lock_guard lock(fixture.mutex);
    CHECK(fixture.exchanges[0].route == "/echo");
    CHECK(fixture.exchanges[1].route == "/big/{bytes}");
    CHECK(fixture.exchanges[2].route.empty());
    CHECK(fixture.exchanges[2].status == 404);
    CHECK(fixture.exchanges[3].status == 202);
    CHECK(fixture.exchanges[3].duration >= 20ms);
    CHECK(fixture.exchanges[0].duration < fixture.exchanges[3].duration);
}

TEST_CASE("buffers given back while idle are taken again when needed") {
    Fixture fixture;
    auto client = fixture.client();
    const std::string big(10'000, 'x');
    client.send(post("/echo", big));
    CHECK(client.read().body == big);
    std::this_thread::sleep_for(1'600ms);  // the time after which buffers are given back
    client.send(post("/echo", "small") + post("/echo", big));
    CHECK(client.read().body == "small");
    CHECK(client.read().body == big);
}

}  // namespace tidemark::http
