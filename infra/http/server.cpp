#include "infra/http/server.h"

#include "infra/base/log.h"
#include "infra/http/connection.h"
#include "infra/http/deadline_wheel.h"

// Each io_context belongs to one thread, so its fences order nothing; and ThreadSanitizer cannot see through them.
#define BOOST_ASIO_DISABLE_FENCED_BLOCK
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

namespace tidemark::http {
namespace {

using namespace std::chrono_literals;
namespace asio = boost::asio;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;
using Clock = std::chrono::steady_clock;

// On the executor itself: Asio's own names for these go through a type-erased one with each operation.
using Executor = asio::io_context::executor_type;
using Socket = asio::basic_stream_socket<tcp, Executor>;
using Acceptor = asio::basic_socket_acceptor<tcp, Executor>;
using Timer = asio::basic_waitable_timer<Clock, asio::wait_traits<Clock>, Executor>;
using StreamDescriptor = asio::posix::basic_stream_descriptor<Executor>;

/// New connections are answered 503 from this share of max_connections on, and not answered at all when it is reached.
constexpr std::size_t kShedPercent = 90;

/// Accepted per wake-up, so that a burst of connections does not hold up those that are open.
constexpr int kAcceptBatch = 64;

/// How long nothing is accepted after the process ran out of descriptors or memory for a socket.
constexpr auto kAcceptPause = 100ms;

/// After this long between two requests a connection's buffers are given back.
constexpr auto kTrimAfter = 1s;

/// Where discarded bytes go, per event loop.
constexpr std::size_t kDiscardBytes = 16 * 1024;

[[noreturn]] void throw_error(int error, const std::string& what) {
    throw std::system_error(error, std::generic_category(), what);
}

class Descriptor {
public:
    explicit Descriptor(int fd = -1) noexcept : fd_(fd) {}
    ~Descriptor() { reset(); }
    Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
    Descriptor& operator=(Descriptor&&) = delete;

    [[nodiscard]] int get() const noexcept { return fd_; }
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
    void reset(int fd = -1) noexcept {
        if (fd_ >= 0) ::close(fd_);  // Linux frees the descriptor whatever close says
        fd_ = fd;
    }

private:
    int fd_;
};

class Session;

/// How other threads reach an event loop: a stack of sessions whose answers are ready, two requests to end, and one
/// eventfd. Pushing allocates nothing, takes no lock, and wakes the loop only when nobody has since it last looked.
/// Outlives its loop as long as a session does: answers that come later find it closed.
class Mailbox {
public:
    Mailbox() : wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        if (wake_.get() < 0) throw_error(errno, "eventfd");
    }

    /// Any thread. False: the loop is gone. The session must not be in the mailbox already.
    bool push(Session& session) noexcept;
    /// The loop's thread: takes all sessions, in the order of their pushes, linked by Session::next_in_mailbox.
    Session* take() noexcept { return reversed(head_.exchange(nullptr, std::memory_order_acq_rel)); }
    /// The loop's thread, at its end: what take() gives, and nothing can be pushed from here on.
    Session* close() noexcept { return reversed(head_.exchange(closed(), std::memory_order_acq_rel)); }

    void drain() noexcept {
        draining_.store(true, std::memory_order_release);
        wake();
    }
    void abort() noexcept {
        aborting_.store(true, std::memory_order_release);
        wake();
    }
    [[nodiscard]] bool draining() const noexcept { return draining_.load(std::memory_order_acquire); }
    [[nodiscard]] bool aborting() const noexcept { return aborting_.load(std::memory_order_acquire); }

    /// The calling thread is from now on the one that runs this mailbox's loop.
    void adopt_thread() noexcept { of_this_thread() = this; }
    [[nodiscard]] bool is_on_loop_thread() const noexcept { return of_this_thread() == this; }

    [[nodiscard]] int wake_descriptor() const noexcept { return wake_.get(); }

private:
    static const Mailbox*& of_this_thread() noexcept {
        thread_local const Mailbox* mailbox = nullptr;
        return mailbox;
    }

    void wake() noexcept {
        // Fails only when the counter is full, and then the loop is awake anyway.
        static_cast<void>(::eventfd_write(wake_.get(), 1));
    }

    /// Marks a closed mailbox; never dereferenced.
    [[nodiscard]] Session* closed() noexcept { return reinterpret_cast<Session*>(this); }
    static Session* reversed(Session* newest) noexcept;

    Descriptor wake_;
    std::atomic<Session*> head_{nullptr};
    std::atomic<bool> draining_{false};
    std::atomic<bool> aborting_{false};
};

class Loop;

/// One connection: Connection's protocol on an Asio socket, and the Target of its requests' replies.
///
/// Owned by itself (`self_`) while its socket is open, by each operation under way and by each Reply. All but
/// complete() and extend() belongs to the loop's thread. An answer from another thread meets the handler's deadline and
/// the client's leaving in `slot_`, the outstanding ticket and who has it: whoever moves it from `waiting` has won. The
/// winner renders into `answer_`, which nobody else touches until the loop finds the session in its mailbox.
class Session final : public Reply::Target, public DeadlineWheel::Entry, public std::enable_shared_from_this<Session> {
public:
    Session(Loop& loop, Socket socket, std::string peer_address);

    /// Takes the socket into use. `shed_because` not empty: only to answer 503 with it.
    void open(std::string_view shed_because);
    void visit(TimePoint now);
    void on_answer();
    void begin_drain();
    void close() noexcept;

    bool complete(std::uint64_t ticket, int status, std::string_view content_type, std::string_view header_lines,
                  std::string_view body) noexcept override;
    void extend(std::uint64_t ticket, std::uint32_t milliseconds) noexcept override;

    Session* next_in_mailbox = nullptr;
    std::shared_ptr<Session> kept_by_mailbox;  ///< keeps the session while it is in the mailbox

private:
    enum class Slot : std::uint64_t { empty, waiting, taken };
    static constexpr std::uint64_t kTicketShift = 2;
    static constexpr std::uint64_t kExtensionShift = 40;  // milliseconds of 34 years of uptime, below 24 bits of ticket

    static constexpr std::uint64_t packed(std::uint64_t ticket, Slot slot) noexcept {
        return ticket << kTicketShift | static_cast<std::uint64_t>(slot);
    }

    template <typename Work>
    void guarded(Work&& work) noexcept;
    void drive(TimePoint now);
    void dispatch();
    bool flush(TimePoint now);
    void read();
    void on_read(const ErrorCode& error, std::size_t bytes);
    void receive_now();
    void arm(TimePoint now);
    void take_extension() noexcept;
    [[nodiscard]] bool take_slot() noexcept;

    Loop& loop_;  ///< valid while the socket is open
    const std::shared_ptr<Mailbox> mailbox_;
    std::optional<Socket> socket_;
    std::shared_ptr<Session> self_;
    std::string peer_address_;
    Connection connection_;
    bool reading_ = false;
    bool awaiting_write_ = false;
    bool cancelling_ = false;
    bool trimmed_ = false;
    TimePoint active_{};

    std::uint64_t ticket_ = 0;
    bool dispatching_ = false;  ///< the handler of `ticket_` is being called
    AnswerShape shape_;         ///< the outstanding answer's; set before `slot_` says waiting
    std::atomic<std::uint64_t> slot_{0};
    std::atomic<std::uint64_t> extension_{0};  ///< low 24 bits of a ticket, and the deadline it was given; 0: none

    std::string answer_;  ///< written by the slot's winner, then read by the loop
    int answer_status_ = 0;
    bool answer_closes_ = false;
};

/// What the loops of one server share.
struct Shared {
    const ServerOptions options;
    const Router& router;
    const ErrorBody error_body;
    const Observer observer;
    SharedCounters counters;

    std::mutex peers_mutex;                              // guards peers
    std::unordered_map<std::string, std::size_t> peers;  ///< open connections; kept only under a cap

    std::mutex running_mutex;  // guards running
    std::condition_variable stopped;
    std::size_t running = 0;

    Shared(ServerOptions o, const Router& r, ErrorBody e, Observer w)
        : options(std::move(o)), router(r), error_body(std::move(e)), observer(std::move(w)) {}

    /// Counts a connection in; false when the peer has more than its share with it.
    [[nodiscard]] bool count_peer(const std::string& address) {
        if (options.max_connections_per_peer == 0) return true;
        const std::lock_guard lock(peers_mutex);
        return ++peers[address] <= options.max_connections_per_peer;
    }

    void release_peer(const std::string& address) noexcept {
        if (options.max_connections_per_peer == 0) return;
        const std::lock_guard lock(peers_mutex);
        const auto found = peers.find(address);
        if (found != peers.end() && --found->second == 0) peers.erase(found);
    }
};

/// One thread's share of the server: its acceptor, its sessions, their deadlines. Made, and destroyed, on the thread of
/// the Server; everything else happens in run(), which returns when the loop was told to drain and its last session
/// closed.
class Loop {
public:
    Loop(Shared& shared, Descriptor listener, bool is_v6);
    ~Loop();
    Loop(const Loop&) = delete;
    Loop& operator=(const Loop&) = delete;

    void run();
    [[nodiscard]] Mailbox& mailbox() noexcept { return *mailbox_; }

private:
    friend class Session;

    void accept();
    void accept_pending(TimePoint now);
    void admit(Descriptor descriptor, const std::string& peer_address);
    void refuse_without_descriptor(TimePoint now);
    void await_mail();
    void take_mail();
    void begin_drain();
    void tick();
    void session_closed(const std::string& peer_address) noexcept;
    void finish_if_done() noexcept;
    void report_finished();

    // Only this loop's thread touches its io_context, which therefore needs no locks.
    asio::io_context context_{BOOST_ASIO_CONCURRENCY_HINT_UNSAFE};
    Shared& shared_;
    std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
    Acceptor acceptor_{context_};
    bool is_v6_;
    StreamDescriptor wake_{context_};
    Timer timer_{context_};
    std::chrono::milliseconds resolution_;
    DeadlineWheel wheel_;
    std::optional<TimePoint> accept_again_;
    Descriptor spare_;  ///< given up to accept, answer and close one connection when none is left
    std::size_t sessions_ = 0;
    bool draining_ = false;
    bool finished_ = false;
    std::vector<Finished> exchanges_;
    std::vector<char> discard_ = std::vector<char>(kDiscardBytes);
    ConnectionContext connection_context_;
};

// ---------------------------------------------------------------------------------------------------------- Mailbox

bool Mailbox::push(Session& session) noexcept {
    auto* head = head_.load(std::memory_order_relaxed);
    do {
        if (head == closed()) return false;
        session.next_in_mailbox = head;
    } while (!head_.compare_exchange_weak(head, &session, std::memory_order_release, std::memory_order_relaxed));
    if (head == nullptr) wake();
    return true;
}

Session* Mailbox::reversed(Session* newest) noexcept {
    Session* oldest = nullptr;
    while (newest != nullptr) {
        auto* next = std::exchange(newest->next_in_mailbox, oldest);
        oldest = std::exchange(newest, next);
    }
    return oldest;
}

// ---------------------------------------------------------------------------------------------------------- Session

Session::Session(Loop& loop, Socket socket, std::string peer_address)
    : loop_(loop),
      mailbox_(loop.mailbox_),
      socket_(std::move(socket)),
      peer_address_(std::move(peer_address)),
      connection_(loop.connection_context_, peer_address_) {}

/// The last resort of a session: whatever is thrown here (memory, mostly) ends this connection and nothing else.
template <typename Work>
void Session::guarded(Work&& work) noexcept {
    try {
        work();
    } catch (const std::exception& error) {
        base::log::error("http_session_failed", {{"what", error.what()}});
        close();
    }
}

void Session::open(std::string_view shed_because) {
    self_ = shared_from_this();
    ++loop_.sessions_;
    guarded([&] {
        const auto now = Clock::now();
        active_ = now;
        if (!shed_because.empty()) connection_.shed(shed_because);
        drive(now);
    });
}

void Session::drive(TimePoint now) {
    while (socket_) {
        switch (connection_.advance(now)) {
            case Connection::Next::handle:
                dispatch();
                break;
            case Connection::Next::write:
                if (!flush(now)) return arm(now);
                break;
            case Connection::Next::read:
                read();
                return arm(now);
            case Connection::Next::wait:
                return arm(now);
            case Connection::Next::linger: {
                ErrorCode ignored;  // a peer that is gone already shows in the next read
                socket_->shutdown(Socket::shutdown_send, ignored);
                break;
            }
            case Connection::Next::close:
                close();
                break;
        }
    }
}

void Session::dispatch() {
    ++ticket_;
    if (extension_.load(std::memory_order_relaxed) != 0) extension_.store(0, std::memory_order_relaxed);
    shape_ = connection_.shape();
    slot_.store(packed(ticket_, Slot::waiting), std::memory_order_release);
    dispatching_ = true;
    const auto& route = connection_.route();
    try {
        route.handler(connection_.request(), Reply(shared_from_this(), ticket_));
    } catch (const std::exception& error) {
        // Its Reply, if it still had it, has answered 500 on the way here.
        base::log::error("http_handler_threw", {{"route", route.path}, {"what", error.what()}});
    }
    dispatching_ = false;
}

/// True when all output is in the kernel's hands.
bool Session::flush(TimePoint now) {
    if (awaiting_write_) return false;
    for (auto output = connection_.output(); !output.empty(); output = connection_.output()) {
        ErrorCode error;
        const auto sent = socket_->send(asio::const_buffer(output.data(), output.size()), 0, error);
        if (error == asio::error::would_block) {
            connection_.blocked(now);
            awaiting_write_ = true;
            socket_->async_wait(Socket::wait_write, [self = shared_from_this()](const ErrorCode& failure) {
                self->awaiting_write_ = false;
                if (failure || !self->socket_) return;
                self->guarded([&self] { self->drive(Clock::now()); });
                self->loop_.report_finished();
            });
            return false;
        }
        if (error) {
            close();
            return false;
        }
        connection_.sent(sent);
    }
    return true;
}

void Session::read() {
    if (reading_) return;
    reading_ = true;
    const auto space = connection_.space();
    socket_->async_read_some(asio::mutable_buffer(space.data(), space.size()),
                             [self = shared_from_this()](const ErrorCode& error, std::size_t bytes) {
                                 auto& session = *self;
                                 session.reading_ = false;
                                 if (!session.socket_) return;
                                 session.guarded([&] { session.on_read(error, bytes); });
                             });
}

void Session::on_read(const ErrorCode& error, std::size_t bytes) {
    const auto now = Clock::now();
    const bool cancelled = std::exchange(cancelling_, false) && error == asio::error::operation_aborted;
    if (loop_.draining_) connection_.drain();
    if (bytes > 0) {
        active_ = now;
        trimmed_ = false;
        connection_.received(bytes);
    } else if (cancelled) {
        connection_.trim();
        // A request that has arrived in the meantime is served; without one the drained connection closes in drive().
        if (loop_.draining_) receive_now();
    } else if (error == asio::error::eof) {
        connection_.peer_closed();
    } else {
        return close();
    }
    drive(now);
    loop_.report_finished();
}

/// Takes what has arrived, without waiting for more.
void Session::receive_now() {
    const auto space = connection_.space();
    ErrorCode error;
    const auto bytes = socket_->receive(asio::mutable_buffer(space.data(), space.size()), 0, error);
    if (!error) connection_.received(bytes);
}

bool Session::take_slot() noexcept {
    auto expected = packed(ticket_, Slot::waiting);
    return slot_.compare_exchange_strong(expected, packed(ticket_, Slot::taken), std::memory_order_acq_rel);
}

void Session::take_extension() noexcept {
    const auto extension = extension_.load(std::memory_order_acquire);
    const auto mine = (ticket_ << kExtensionShift) >> kExtensionShift;
    if (extension == 0 || extension >> kExtensionShift != mine) return;
    const std::chrono::milliseconds since_boot{extension & ((std::uint64_t{1} << kExtensionShift) - 1)};
    connection_.postpone(TimePoint(since_boot));
}

void Session::arm(TimePoint now) {
    if (!socket_) return;
    if (connection_.waiting()) take_extension();
    auto at = connection_.deadline();
    if (connection_.idle() && !trimmed_) at = std::min(at, now + kTrimAfter);
    loop_.wheel_.schedule(*this, at);
}

void Session::visit(TimePoint now) {
    guarded([&] {
        if (connection_.waiting()) take_extension();
        if (now >= connection_.deadline()) {
            if (connection_.waiting() && !take_slot()) {
                // Another thread is answering at this very moment; its mail will arrive.
                return loop_.wheel_.schedule(*this, now);
            }
            connection_.expire(now);
            return drive(now);
        }
        if (connection_.idle() && !trimmed_ && now - active_ >= kTrimAfter) {
            trimmed_ = true;
            std::string().swap(answer_);
            if (connection_.owns_block()) {
                cancelling_ = true;
                socket_->cancel();
            } else {
                connection_.trim();
            }
        }
        arm(now);
    });
}

bool Session::complete(std::uint64_t ticket, int status, std::string_view content_type, std::string_view header_lines,
                       std::string_view body) noexcept {
    auto expected = packed(ticket, Slot::waiting);
    if (!slot_.compare_exchange_strong(expected, packed(ticket, Slot::taken), std::memory_order_acq_rel)) return false;

    const bool is_inline = mailbox_->is_on_loop_thread() && dispatching_;
    try {
        if (is_inline && status != Reply::kDropped) {
            connection_.answer(status, content_type, header_lines, body);
            return true;
        }
        answer_.clear();
        auto shape = shape_;
        if (mailbox_->draining()) shape.close = true;
        if (status != Reply::kDropped) append_response(answer_, shape, status, content_type, header_lines, body);
        answer_status_ = status;
        answer_closes_ = shape.close;
    } catch (const std::exception&) {
        // No memory for the answer. What an inline one has left in the output is unknown; else the loop answers 500.
        if (is_inline) connection_.abort();
        answer_status_ = Reply::kDropped;
    }
    kept_by_mailbox = shared_from_this();
    if (mailbox_->push(*this)) return true;
    kept_by_mailbox.reset();
    return false;
}

void Session::extend(std::uint64_t ticket, std::uint32_t milliseconds) noexcept {
    const auto at = Clock::now() + std::chrono::milliseconds(milliseconds);
    const auto since_boot = std::chrono::duration_cast<std::chrono::milliseconds>(at.time_since_epoch()).count();
    const auto mine = ticket << kExtensionShift | static_cast<std::uint64_t>(since_boot);
    auto current = extension_.load(std::memory_order_relaxed);
    do {
        // Answered in the meantime: what stands there may belong to the next request.
        if (slot_.load(std::memory_order_acquire) != packed(ticket, Slot::waiting)) return;
    } while (!extension_.compare_exchange_weak(current, mine, std::memory_order_release, std::memory_order_relaxed));
}

void Session::on_answer() {
    if (!socket_ || !connection_.waiting()) return;  // the client has left
    guarded([&] {
        if (answer_status_ == Reply::kDropped) {
            loop_.shared_.counters.dropped_replies.fetch_add(1, std::memory_order_relaxed);
            connection_.answer_error(500, "the request was not answered");
        } else {
            connection_.answer_rendered(answer_, answer_status_, answer_closes_);
        }
        drive(Clock::now());
    });
}

void Session::begin_drain() {
    guarded([&] {
        if (connection_.idle() && reading_) {
            cancelling_ = true;
            socket_->cancel();
        } else {
            connection_.drain();
        }
        arm(Clock::now());
    });
}

void Session::close() noexcept {
    if (!socket_) return;
    static_cast<void>(take_slot());  // an answer that is still to come has nowhere to go
    loop_.wheel_.remove(*this);
    ErrorCode ignored;  // the descriptor is gone whatever it says
    if (connection_.reset_on_close()) socket_->set_option(asio::socket_base::linger(true, 0), ignored);
    socket_->close(ignored);
    socket_.reset();
    const auto keep = std::move(self_);
    loop_.session_closed(peer_address_);
}

// ------------------------------------------------------------------------------------------------------------- Loop

/// Late by a sixteenth of the shortest deadline at most, with few enough wake-ups of an idle process.
std::chrono::milliseconds resolution_for(const ServerOptions& options) {
    const auto shortest = std::min({options.header_deadline, options.body_deadline, options.handler_deadline,
                                    options.write_deadline, options.idle_deadline});
    return std::clamp(shortest / 32, 1ms, 250ms);
}

int open_spare() noexcept {
    return ::open("/dev/null", O_RDONLY | O_CLOEXEC);
}

std::string text_of(const sockaddr_storage& address) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    const void* bytes = nullptr;
    int family = address.ss_family;
    if (family == AF_INET) {
        bytes = &reinterpret_cast<const sockaddr_in&>(address).sin_addr;
    } else if (family == AF_INET6) {
        const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
        const bool mapped = IN6_IS_ADDR_V4MAPPED(&v6);
        if (mapped) family = AF_INET;
        bytes = v6.s6_addr + (mapped ? 12 : 0);
    }
    if (bytes == nullptr || ::inet_ntop(family, bytes, text.data(), text.size()) == nullptr) return "unknown";
    return text.data();
}

Loop::Loop(Shared& shared, Descriptor listener, bool is_v6)
    : shared_(shared),
      is_v6_(is_v6),
      resolution_(resolution_for(shared.options)),
      wheel_(Clock::now(), resolution_),
      spare_(open_spare()),
      connection_context_{
          shared.options, shared.router, shared.error_body, shared.counters, shared.observer ? &exchanges_ : nullptr,
          discard_} {
    acceptor_.assign(is_v6 ? tcp::v6() : tcp::v4(), listener.get());
    static_cast<void>(listener.release());
    acceptor_.non_blocking(true);
    wake_.assign(mailbox_->wake_descriptor());
}

Loop::~Loop() {
    if (wake_.is_open()) wake_.release();  // the mailbox's
}

void Loop::run() {
    mailbox_->adopt_thread();
    accept();
    await_mail();
    tick();
    context_.run();
    for (auto* session = mailbox_->close(); session != nullptr;) {
        auto* next = session->next_in_mailbox;
        const auto last = std::move(session->kept_by_mailbox);
        session = next;
    }
}

void Loop::accept() {
    acceptor_.async_wait(Acceptor::wait_read, [this](const ErrorCode& error) {
        if (error || draining_) return;
        accept_pending(Clock::now());
        if (!accept_again_) accept();
    });
}

void Loop::accept_pending(TimePoint now) {
    for (int i = 0; i < kAcceptBatch; ++i) {
        sockaddr_storage address{};
        socklen_t size = sizeof address;
        Descriptor accepted(::accept4(acceptor_.native_handle(), reinterpret_cast<sockaddr*>(&address), &size,
                                      SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (accepted.get() >= 0) {
            admit(std::move(accepted), text_of(address));
            continue;
        }
        switch (errno) {
            case EAGAIN:
                return;
            case EMFILE:
            case ENFILE:
                return refuse_without_descriptor(now);
            case EINTR:
            case ECONNABORTED:
            case EPROTO:
            case ENETDOWN:
            case ENETUNREACH:
            case EHOSTDOWN:
            case EHOSTUNREACH:
            case ENONET:
            case ENOPROTOOPT:
            case EOPNOTSUPP:
                break;  // of this one connection, says accept(2): the next
            default:
                accept_again_ = now + kAcceptPause;
                return;  // memory, mostly
        }
    }
}

void Loop::admit(Descriptor descriptor, const std::string& peer_address) {
    auto& counters = shared_.counters;
    const auto max = shared_.options.max_connections;
    counters.accepted.fetch_add(1, std::memory_order_relaxed);
    const auto open = counters.open.fetch_add(1, std::memory_order_relaxed);
    if (open >= max) {
        counters.open.fetch_sub(1, std::memory_order_relaxed);
        counters.shed.fetch_add(1, std::memory_order_relaxed);
        return;
    }
    std::string_view shed_because;
    if (!shared_.count_peer(peer_address)) shed_because = "too many connections from this address";
    if (open >= max * kShedPercent / 100) shed_because = "too many connections";
    if (!shed_because.empty()) counters.shed.fetch_add(1, std::memory_order_relaxed);

    try {
        Socket socket(context_);
        socket.assign(is_v6_ ? tcp::v6() : tcp::v4(), descriptor.get());
        static_cast<void>(descriptor.release());
        socket.non_blocking(true);
        socket.set_option(tcp::no_delay(true));
        const auto session = std::make_shared<Session>(*this, std::move(socket), peer_address);
        session->open(shed_because);
    } catch (const std::exception& failure) {
        // The peer has left already, or there is no memory for it here or in the kernel: this connection only.
        base::log::warn("http_connection_lost", {{"what", failure.what()}});
        counters.open.fetch_sub(1, std::memory_order_relaxed);
        shared_.release_peer(peer_address);
    }
}

/// The listener would stay readable, and spin, while no descriptor is left: one connection at a time is told so with
/// the spare one, and the rest wait in the backlog.
void Loop::refuse_without_descriptor(TimePoint now) {
    accept_again_ = now + kAcceptPause;
    spare_.reset();
    const Descriptor accepted(::accept4(acceptor_.native_handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (accepted.get() >= 0) {
        shared_.counters.shed.fetch_add(1, std::memory_order_relaxed);
        std::string answer;
        append_response(answer, {.omit_body = false, .close = true, .confirm_keep_alive = false}, 503, {},
                        "Retry-After: 1\r\n", {});
        // A new socket's buffer takes this at once; if not, the peer sees the close alone.
        static_cast<void>(::send(accepted.get(), answer.data(), answer.size(), MSG_NOSIGNAL));
    }
    spare_.reset(open_spare());
}

void Loop::await_mail() {
    wake_.async_wait(StreamDescriptor::wait_read, [this](const ErrorCode& error) {
        if (error) return;
        take_mail();
        if (!finished_) await_mail();
    });
}

void Loop::take_mail() {
    eventfd_t ignored = 0;
    static_cast<void>(::eventfd_read(wake_.native_handle(), &ignored));  // before take(), so that no push is overlooked
    for (auto* session = mailbox_->take(); session != nullptr;) {
        auto* next = std::exchange(session->next_in_mailbox, nullptr);
        const auto keep = std::move(session->kept_by_mailbox);
        session->on_answer();
        session = next;
    }
    report_finished();
    if (mailbox_->draining() && !draining_) begin_drain();
    if (mailbox_->aborting()) {
        wheel_.visit_each([](DeadlineWheel::Entry& entry) { static_cast<Session&>(entry).close(); });
    }
    finish_if_done();
}

void Loop::begin_drain() {
    // What the kernel has accepted for us is served; closing the listener would reset it.
    accept_pending(Clock::now());
    draining_ = true;
    ErrorCode ignored;
    acceptor_.close(ignored);
    wheel_.visit_each([](DeadlineWheel::Entry& entry) {
        const auto session = static_cast<Session&>(entry).shared_from_this();
        session->begin_drain();
    });
}

void Loop::tick() {
    timer_.expires_after(resolution_);
    timer_.async_wait([this](const ErrorCode& error) {
        if (error || finished_) return;
        const auto now = Clock::now();
        wheel_.advance(now, [now](DeadlineWheel::Entry& entry) {
            const auto session = static_cast<Session&>(entry).shared_from_this();
            session->visit(now);
        });
        report_finished();
        if (accept_again_ && now >= *accept_again_ && !draining_) {
            accept_again_.reset();
            accept();
        }
        if (!finished_) tick();
    });
}

void Loop::session_closed(const std::string& peer_address) noexcept {
    shared_.counters.open.fetch_sub(1, std::memory_order_relaxed);
    shared_.release_peer(peer_address);
    --sessions_;
    finish_if_done();
}

void Loop::finish_if_done() noexcept {
    if (!draining_ || sessions_ > 0 || finished_) return;
    finished_ = true;
    ErrorCode ignored;  // cancelling a timer cannot fail
    timer_.cancel(ignored);
    wake_.release();
}

void Loop::report_finished() {
    if (exchanges_.empty()) return;
    const auto now = Clock::now();
    for (const auto& each : exchanges_)
        shared_.observer({each.method, each.route, each.status, now - each.since});
    exchanges_.clear();
}

// ----------------------------------------------------------------------------------------------------------- Server

struct Address {
    sockaddr_storage storage{};
    socklen_t size = 0;
    [[nodiscard]] bool is_v6() const noexcept { return storage.ss_family == AF_INET6; }

    static Address of(const std::string& text, std::uint16_t port) {
        Address address;
        auto& v4 = reinterpret_cast<sockaddr_in&>(address.storage);
        auto& v6 = reinterpret_cast<sockaddr_in6&>(address.storage);
        if (::inet_pton(AF_INET, text.c_str(), &v4.sin_addr) == 1) {
            v4.sin_family = AF_INET;
            v4.sin_port = htons(port);
            address.size = sizeof v4;
        } else if (::inet_pton(AF_INET6, text.c_str(), &v6.sin6_addr) == 1) {
            v6.sin6_family = AF_INET6;
            v6.sin6_port = htons(port);
            address.size = sizeof v6;
        } else {
            throw_error(EINVAL, "listen on \"" + text + "\": a numeric IPv4 or IPv6 address is needed");
        }
        return address;
    }
};

/// A listening socket. The first of a server binds exclusively and lets its siblings in only then, so that a second
/// server on the same port is an error instead of a silent share of the connections.
int listen_on(const std::string& host, std::uint16_t port, bool first) {
    const auto what = "listen on " + host + ":" + std::to_string(port);
    const auto address = Address::of(host, port);
    Descriptor listener(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (listener.get() < 0) throw_error(errno, what);
    const auto enable = [&](int option) {
        const int on = 1;
        if (::setsockopt(listener.get(), SOL_SOCKET, option, &on, sizeof on) != 0) throw_error(errno, what);
    };
    enable(SO_REUSEADDR);
    if (!first) enable(SO_REUSEPORT);
    if (::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.size) != 0) {
        throw_error(errno, what);
    }
    if (first) enable(SO_REUSEPORT);
    if (::listen(listener.get(), SOMAXCONN) != 0) throw_error(errno, what);
    return listener.release();
}

std::uint16_t port_of(int listener) {
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    if (::getsockname(listener, reinterpret_cast<sockaddr*>(&storage), &size) != 0) throw_error(errno, "getsockname");
    return ntohs(storage.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(storage).sin6_port
                                               : reinterpret_cast<sockaddr_in&>(storage).sin_port);
}

}  // namespace

class Server::Impl {
public:
    Impl(ServerOptions options, const Router& router, ErrorBody error_body, Observer observer)
        : shared_(std::move(options), router, std::move(error_body), std::move(observer)) {
        assert(shared_.error_body);
    }

    ~Impl() { drain(0ms); }

    void start() {
        assert(loops_.empty());
        const auto& options = shared_.options;
        const bool is_v6 = Address::of(options.address, 0).is_v6();
        const unsigned threads =
            options.threads != 0 ? options.threads : std::max(1U, std::thread::hardware_concurrency());
        port_ = options.port;
        for (unsigned i = 0; i < threads; ++i) {
            Descriptor listener(listen_on(options.address, port_, i == 0));
            port_ = port_of(listener.get());
            loops_.push_back(std::make_unique<Loop>(shared_, std::move(listener), is_v6));
        }
        shared_.running = threads;
        for (unsigned i = 0; i < threads; ++i)
            threads_.emplace_back([this, i] { run(i); });
    }

    void drain(std::chrono::milliseconds limit) {
        if (threads_.empty()) return;
        for (const auto& loop : loops_)
            loop->mailbox().drain();
        {
            std::unique_lock lock(shared_.running_mutex);
            shared_.stopped.wait_for(lock, limit, [this] { return shared_.running == 0; });
        }
        for (const auto& loop : loops_)
            loop->mailbox().abort();
        for (auto& thread : threads_)
            thread.join();
        threads_.clear();
    }

    [[nodiscard]] std::uint16_t port() const noexcept { return port_; }

    [[nodiscard]] ServerCounters counters() const noexcept {
        const auto& counters = shared_.counters;
        const auto read = [](const std::atomic<std::uint64_t>& value) { return value.load(std::memory_order_relaxed); };
        return {read(counters.accepted),  read(counters.open),     read(counters.shed),
                read(counters.malformed), read(counters.deadline), read(counters.dropped_replies)};
    }

private:
    void run(unsigned index) {
        const auto name = "http-" + std::to_string(index);
        ::pthread_setname_np(::pthread_self(), name.c_str());  // fails only for names over 15 bytes
        loops_[index]->run();
        const std::lock_guard lock(shared_.running_mutex);
        --shared_.running;
        shared_.stopped.notify_all();
    }

    Shared shared_;
    std::uint16_t port_ = 0;
    std::vector<std::unique_ptr<Loop>> loops_;
    std::vector<std::thread> threads_;
};

Server::Server(ServerOptions options, const Router& router, ErrorBody error_body, Observer observer)
    : impl_(std::make_unique<Impl>(std::move(options), router, std::move(error_body), std::move(observer))) {}
Server::~Server() = default;
void Server::start() {
    impl_->start();
}
std::uint16_t Server::port() const noexcept {
    return impl_->port();
}
void Server::drain(std::chrono::milliseconds limit) {
    impl_->drain(limit);
}
ServerCounters Server::counters() const noexcept {
    return impl_->counters();
}

}  // namespace tidemark::http
