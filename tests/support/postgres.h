#pragma once

#include "infra/postgres/connection.h"
#include "infra/postgres/session.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <list>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace tidemark::test {

/// The database that the tests may use.
inline std::string dsn() {
    const char* value = std::getenv("TIDEMARK_TEST_DSN");
    if (value == nullptr) throw std::runtime_error("TIDEMARK_TEST_DSN is not set; run the tests by infra/dev/servers");
    return value;
}

/// Waits until `condition` holds; false after 10 s, which no condition of a test takes on a machine that works.
inline bool eventually(const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds{10};
    while (!condition()) {
        if (std::chrono::steady_clock::now() > deadline) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds{5});
    }
    return true;
}

/// A schema of its own, dropped in the end.
class Schema {
public:
    Schema() : connection_(dsn(), {}) {
        static std::atomic<int> made = 0;
        name_ = "test_" + std::to_string(getpid()) + "_" + std::to_string(++made);
        connection_.run_script("create schema " + name_);
    }
    ~Schema() {
        try {
            pg::SessionOptions patient;
            patient.lock_timeout = std::chrono::seconds{10};
            patient.statement_timeout = std::chrono::seconds{20};
            pg::Connection(dsn(), patient).run_script("drop schema " + name_ + " cascade");
        } catch (const pg::Error&) {
            // A schema left behind disturbs nobody: its name is not used again.
        }
    }
    Schema(const Schema&) = delete;
    Schema& operator=(const Schema&) = delete;

    [[nodiscard]] const std::string& name() const noexcept { return name_; }
    /// Settings whose sessions live in the schema.
    [[nodiscard]] pg::SessionOptions options() const {
        pg::SessionOptions options;
        options.search_path = name_;
        options.application_name = name_;
        return options;
    }
    /// Runs `sql` in the schema, on a session of its own.
    void execute(const std::string& sql) { connection_.run_script("set local search_path to " + name_ + "; " + sql); }
    /// The only cell of the answer.
    std::string ask(const std::string& sql) {
        auto transaction = connection_.begin();
        transaction.run_script("set local search_path to " + name_);
        return std::string(transaction.run_script(sql).text(0, 0));
    }
    /// Ends a session and waits until it is gone.
    void terminate(int backend) {
        const auto pid = std::to_string(backend);
        ask("select pg_terminate_backend(" + pid + ")");
        if (!eventually([&] { return ask("select count(*) from pg_stat_activity where pid = " + pid) == "0"; })) {
            throw std::runtime_error("a terminated session stays");
        }
    }
    /// Sessions of this schema's options.
    int sessions() {
        return std::stoi(ask("select count(*) from pg_stat_activity where application_name = '" + name_ + "'"));
    }

private:
    pg::Connection connection_;
    std::string name_;
};

/// A network between a client and the database that can be slow, silent or broken.
class Network {
public:
    Network() {
        pg::Connection probe(test::dsn(), {});
        const pg::Statement where = {"where", "select host(inet_server_addr()), inet_server_port()"};
        const auto rows = probe.run(where);
        server_.sin_family = AF_INET;
        server_.sin_port = htons(static_cast<std::uint16_t>(rows.integer(0, 1)));
        if (inet_pton(AF_INET, std::string(rows.text(0, 0)).c_str(), &server_.sin_addr) != 1) {
            throw std::runtime_error("the database of the tests is not on IPv4");
        }
        listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in any = {};
        any.sin_family = AF_INET;
        any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof any;
        check(listener_ >= 0 && bind(listener_, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0 &&
              listen(listener_, 16) == 0 && getsockname(listener_, reinterpret_cast<sockaddr*>(&any), &size) == 0);
        port_ = ntohs(any.sin_port);
        stop_ = eventfd(0, EFD_CLOEXEC);
        check(stop_ >= 0);
        thread_ = std::thread([this] { accept_all(); });
    }
    ~Network() {
        const std::uint64_t one = 1;
        [[maybe_unused]] const auto written = write(stop_, &one, sizeof one);
        thread_.join();
        for (auto& pair : pairs_)
            pair.thread.join();
        close(listener_);
        close(stop_);
    }
    Network(const Network&) = delete;
    Network& operator=(const Network&) = delete;

    /// The database, by way of this network. Later keywords win.
    [[nodiscard]] std::string dsn() const {
        return pg::session::connection_string(test::dsn(), {}, pg::session::Access::read_write) +
               "host='127.0.0.1' hostaddr='127.0.0.1' port='" + std::to_string(port_) + "' sslmode='disable' " +
               "gssencmode='disable' options=''";
    }

    /// Nothing passes any more, in either direction; connections stand.
    void fall_silent() { silent_ = true; }
    void speak_again() { silent_ = false; }
    /// Breaks the connections there are, which are broken when it returns; new ones are taken.
    void cut() {
        std::vector<Pair*> standing;
        {
            const std::lock_guard lock(mutex_);
            for (auto& pair : pairs_) {
                pair.is_cut = true;
                standing.push_back(&pair);
            }
        }
        for (const auto* pair : standing) {
            if (!eventually([&] { return pair->is_closed.load(); })) throw std::runtime_error("a cut connection stays");
        }
    }
    /// What the client sends arrives with `from` replaced by `to`, which is as long: as if by a pooler that knows
    /// better.
    void alter(const std::string& from, const std::string& to) {
        const std::lock_guard lock(mutex_);
        altered_ = from;
        altered_to_ = to;
    }
    /// Each piece of either direction arrives that much later.
    void delay(std::chrono::milliseconds by) { delay_ = by; }
    /// From the next piece on that holds `text`, nothing of the server's reaches the client; once the server has
    /// answered it, both sides are cut.
    void lose_answer_to(const std::string& text) {
        const std::lock_guard lock(mutex_);
        lost_after_ = text;
    }
    /// The next piece that holds `text` is not delivered; both sides are cut.
    void lose(const std::string& text) {
        const std::lock_guard lock(mutex_);
        lost_ = text;
    }

private:
    struct Pair {
        int client = -1;
        int server = -1;
        std::atomic<bool> is_cut = false;
        std::atomic<bool> is_closed = false;
        std::thread thread;
    };

    static void check(bool ok) {
        if (!ok) throw std::system_error(errno, std::generic_category(), "network of the test");
    }

    void accept_all() {
        for (;;) {
            pollfd ready[2] = {{listener_, POLLIN, 0}, {stop_, POLLIN, 0}};
            poll(ready, 2, -1);
            if (ready[1].revents != 0) return;
            const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (client < 0 || server < 0 ||
                connect(server, reinterpret_cast<sockaddr*>(&server_), sizeof server_) != 0) {
                close(client);
                close(server);
                continue;
            }
            const std::lock_guard lock(mutex_);
            auto& pair = pairs_.emplace_back();
            pair.client = client;
            pair.server = server;
            pair.thread = std::thread([this, &pair] {
                carry(pair);
                close(pair.client);
                close(pair.server);
                pair.is_closed = true;
            });
        }
    }

    void carry(const Pair& pair) {
        bool answer_is_lost = false;
        std::vector<char> piece(64 * 1024);
        for (;;) {
            pollfd ready[3] = {{pair.client, POLLIN, 0}, {pair.server, POLLIN, 0}, {stop_, POLLIN, 0}};
            poll(ready, 3, 5);
            if (ready[2].revents != 0 || pair.is_cut) return;
            if (silent_) {
                std::this_thread::sleep_for(std::chrono::milliseconds{5});
                continue;
            }
            for (int side = 0; side < 2; ++side) {
                if (ready[side].revents == 0) continue;
                const bool from_client = side == 0;
                const ssize_t size = recv(from_client ? pair.client : pair.server, piece.data(), piece.size(), 0);
                if (size <= 0) return;
                const std::string_view text(piece.data(), static_cast<std::size_t>(size));
                if (from_client) {
                    const std::lock_guard lock(mutex_);
                    const auto at = altered_.empty() ? std::string_view::npos : text.find(altered_);
                    if (at != std::string_view::npos)
                        std::copy(altered_to_.begin(), altered_to_.end(),
                                  piece.begin() + static_cast<std::ptrdiff_t>(at));
                    if (!lost_.empty() && text.find(lost_) != std::string_view::npos) {
                        lost_.clear();
                        return;
                    }
                    if (!lost_after_.empty() && text.find(lost_after_) != std::string_view::npos) {
                        lost_after_.clear();
                        answer_is_lost = true;
                    }
                } else if (answer_is_lost) {
                    return;
                }
                if (delay_.load().count() > 0) std::this_thread::sleep_for(delay_.load());
                for (std::size_t at = 0; at < text.size();) {
                    const ssize_t sent =
                        send(from_client ? pair.server : pair.client, text.data() + at, text.size() - at, MSG_NOSIGNAL);
                    if (sent <= 0) return;
                    at += static_cast<std::size_t>(sent);
                }
            }
        }
    }

    sockaddr_in server_ = {};
    int listener_ = -1;
    int stop_ = -1;
    unsigned port_ = 0;
    std::atomic<bool> silent_ = false;
    std::atomic<std::chrono::milliseconds> delay_ = std::chrono::milliseconds{0};
    std::mutex mutex_;  // guards the five below
    std::string altered_;
    std::string altered_to_;
    std::string lost_;
    std::string lost_after_;
    std::list<Pair> pairs_;
    std::thread thread_;
};

}  // namespace tidemark::test
