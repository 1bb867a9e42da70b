#include "infra/base/shutdown.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

namespace tidemark::base {

namespace {

/// Longer waits are cut to this, so that adding one to the clock cannot overflow; nobody waits a year for a signal.
constexpr std::chrono::milliseconds kLongestWait = std::chrono::hours{24 * 365};

void check(bool ok, const char* what) {
    if (!ok) throw std::system_error(errno, std::generic_category(), what);
}

}  // namespace

struct Shutdown::State {
    State() {
        sigset_t signals;
        sigemptyset(&signals);
        sigaddset(&signals, SIGTERM);
        sigaddset(&signals, SIGINT);
        errno = pthread_sigmask(SIG_BLOCK, &signals, &previous_mask);
        check(errno == 0, "pthread_sigmask");
        // A peer that went away is an error of the write that met it, never the end of the process.
        struct sigaction ignore = {};
        ignore.sa_handler = SIG_IGN;
        check(sigaction(SIGPIPE, &ignore, nullptr) == 0, "sigaction(SIGPIPE)");
        signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
        check(signal_fd >= 0, "signalfd");
        leave_fd = eventfd(0, EFD_CLOEXEC);
        check(leave_fd >= 0, "eventfd");
        listener = std::thread([this] { listen(); });
    }

    ~State() {
        const std::uint64_t one = 1;
        // Eight bytes into an eventfd at zero cannot fail; if they did, joining would hang, and dying is better.
        if (write(leave_fd, &one, sizeof one) != static_cast<ssize_t>(sizeof one)) _exit(1);
        listener.join();
        close(leave_fd);
        close(signal_fd);
        pthread_sigmask(SIG_SETMASK, &previous_mask, nullptr);
    }

    void listen() noexcept {
        unsigned received = 0;
        for (;;) {
            pollfd ready[2] = {{signal_fd, POLLIN, 0}, {leave_fd, POLLIN, 0}};
            if (poll(ready, 2, -1) < 0 && errno != EINTR) _exit(1);
            signalfd_siginfo info;
            while (read(signal_fd, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
                if (++received > 1) _exit(1);
                announce();
            }
            if (ready[1].revents != 0) return;
        }
    }

    void announce() noexcept {
        {
            const std::lock_guard lock(mutex);
            requested.store(true);
        }
        changed.notify_all();
    }

    State(const State&) = delete;
    State& operator=(const State&) = delete;

    sigset_t previous_mask = {};
    int signal_fd = -1;
    int leave_fd = -1;
    std::atomic<bool> requested = false;
    std::mutex mutex;  // orders a change of `requested` before the waits that look at it
    std::condition_variable changed;
    std::thread listener;
};

Shutdown::Shutdown() : state_(new State) {}

Shutdown::~Shutdown() {
    delete state_;
}

bool Shutdown::requested() const noexcept {
    return state_->requested.load();
}

bool Shutdown::wait_for(std::chrono::milliseconds limit) const noexcept {
    std::unique_lock lock(state_->mutex);
    return state_->changed.wait_for(lock, std::min(limit, kLongestWait), [this] { return state_->requested.load(); });
}

}  // namespace tidemark::base
