#include "infra/base/input.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>

namespace tidemark::base {

Input::int_type Input::underflow() {
    constexpr int kLookMilliseconds = 100;  // how soon it is seen that the program is told to stop
    while (!stopped_()) {
        pollfd readable{descriptor_, POLLIN, 0};
        const int ready = ::poll(&readable, 1, kLookMilliseconds);
        if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
        const auto size = ready < 0 ? -1 : ::read(descriptor_, buffer_.data(), buffer_.size());
        if (size < 0 && errno == EINTR) continue;
        if (size < 0) throw std::system_error(errno, std::generic_category(), "read");
        if (size == 0) return traits_type::eof();
        bytes_ += size;
        setg(buffer_.data(), buffer_.data(), buffer_.data() + size);
        return traits_type::to_int_type(buffer_.front());
    }
    throw std::runtime_error("told to stop");  // which the stream remembers as bad()
}

}  // namespace tidemark::base
