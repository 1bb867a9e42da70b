#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace tidemark::http::tests {

/// What every wait of these tests ends with: far above anything a loaded machine needs.
inline constexpr std::chrono::seconds kPatience{20};

/// Polls until `condition` holds; false when it never did.
template <typename Condition>
bool eventually(Condition condition) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
        if (std::chrono::steady_clock::now() > end) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

struct Answer {
    int status = 0;
    std::string head;
    std::string body;

    [[nodiscard]] bool closes() const { return head.find("\r\nConnection: close\r\n") != std::string::npos; }
};

/// A raw TCP client: sends what it is told, byte for byte, and reads whole answers.
class Client {
public:
    explicit Client(std::uint16_t port) : Client(socket_only()) { connect(port); }
    ~Client() {
        if (fd_ >= 0) ::close(fd_);
    }
    Client(Client&& other) noexcept : fd_(std::exchange(other.fd_, -1)), received_(std::move(other.received_)) {}
    Client& operator=(Client&&) = delete;

    /// Not connected yet.
    static Client socket_only() { return Client(); }

    void connect(std::uint16_t port) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) throw_error("connect");
    }

    /// False when the peer has closed or reset.
    bool send(std::string_view bytes) {
        while (!bytes.empty()) {
            const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent <= 0) return false;
            bytes.remove_prefix(static_cast<std::size_t>(sent));
        }
        return true;
    }

    /// As much as the socket takes without waiting.
    std::size_t send_some(std::string_view bytes) {
        const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        return sent < 0 ? 0 : static_cast<std::size_t>(sent);
    }

    /// The next answer; status 0 when the connection ended, or nothing came, before one was complete.
    Answer read(bool has_body = true) {
        Answer answer;
        auto end = received_.find("\r\n\r\n");
        while (end == std::string::npos) {
            if (!receive()) return answer;
            end = received_.find("\r\n\r\n");
        }
        const auto head = received_.substr(0, end + 4);
        std::size_t length = 0;
        const auto field = head.find("\r\nContent-Length: ");
        if (has_body && field != std::string::npos) length = std::stoul(head.substr(field + 18));
        while (received_.size() < head.size() + length) {
            if (!receive()) return answer;
        }
        answer.head = head;
        answer.status = std::stoi(head.substr(9, 3));
        answer.body = received_.substr(head.size(), length);
        received_.erase(0, head.size() + length);
        return answer;
    }

    /// The connection ended, by FIN or reset, with nothing more to read.
    bool ended() { return received_.empty() && !receive() && ended_; }

    void finish_sending() { ::shutdown(fd_, SHUT_WR); }

    void reset() {
        const linger now{1, 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        ::close(std::exchange(fd_, -1));
    }

    void shrink_receive_buffer() {
        const int bytes = 4096;
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    }

    [[nodiscard]] int descriptor() const noexcept { return fd_; }

private:
    Client() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        if (fd_ < 0) throw_error("socket");
    }

    [[noreturn]] static void throw_error(const char* what) {
        throw std::system_error(errno, std::generic_category(), what);
    }

    bool receive() {
        pollfd wait{fd_, POLLIN, 0};
        const auto timeout = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience).count();
        if (::poll(&wait, 1, static_cast<int>(timeout)) <= 0) return false;
        char bytes[16 * 1024];
        const auto n = ::recv(fd_, bytes, sizeof bytes, 0);
        if (n <= 0) {
            ended_ = true;
            return false;
        }
        received_.append(bytes, static_cast<std::size_t>(n));
        return true;
    }

    int fd_ = -1;
    bool ended_ = false;
    std::string received_;
};

}  // namespace tidemark::http::tests
