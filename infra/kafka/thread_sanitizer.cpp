// What lets ThreadSanitizer judge a program that holds Debian's librdkafka; in builds with it only, in every
// executable.
#include <pthread.h>
#include <threads.h>

#include <cerrno>
#include <cstdint>
#include <memory>

// librdkafka is not instrumented: its reference counts are atomics that cannot be seen, so that its free of a record by
// the last holder seems to race with every read before. What its own calls of the C library touch is not looked at;
// what its callbacks do in our code is, and so are the locks below.
extern "C" const char* __tsan_default_suppressions() {
    return "called_from_lib:librdkafka.so.1\n";
}

// C11 threads over POSIX ones: g++ 12's sanitizer knows only the latter, and librdkafka uses the former, so that its
// threads would crash in the sanitizer's first call and its locks would order nothing. An executable's functions take
// the place of the C library's, whose own types are wrapped POSIX ones, hence the casts. Locks are made and destroyed
// by the C library: a lock of something counted would seem to be destroyed under its former holders, as above.
namespace {

pthread_mutex_t* posix(mtx_t* mutex) noexcept {
    return reinterpret_cast<pthread_mutex_t*>(mutex);
}

pthread_cond_t* posix(cnd_t* condition) noexcept {
    return reinterpret_cast<pthread_cond_t*>(condition);
}

int outcome(int error) noexcept {
    switch (error) {
        case 0:
            return thrd_success;
        case ENOMEM:
            return thrd_nomem;
        case ETIMEDOUT:
            return thrd_timedout;
        case EBUSY:
            return thrd_busy;
        default:
            return thrd_error;
    }
}

struct Start {
    thrd_start_t function;
    void* argument;
};

void* run(void* given) {
    const std::unique_ptr<Start> start(static_cast<Start*>(given));
    return reinterpret_cast<void*>(static_cast<std::intptr_t>(start->function(start->argument)));
}

}  // namespace

extern "C" {

int thrd_create(thrd_t* thread, thrd_start_t function, void* argument) {
    auto start = std::make_unique<Start>(Start{function, argument});
    const int error = pthread_create(thread, nullptr, run, start.get());
    if (error == 0) static_cast<void>(start.release());  // run() deletes it
    return outcome(error);
}

int thrd_join(thrd_t thread, int* result) {
    void* returned = nullptr;
    const int error = pthread_join(thread, &returned);
    if (result != nullptr) *result = static_cast<int>(reinterpret_cast<std::intptr_t>(returned));
    return outcome(error);
}

int mtx_lock(mtx_t* mutex) {
    return outcome(pthread_mutex_lock(posix(mutex)));
}

int mtx_trylock(mtx_t* mutex) {
    return outcome(pthread_mutex_trylock(posix(mutex)));
}

int mtx_unlock(mtx_t* mutex) {
    return outcome(pthread_mutex_unlock(posix(mutex)));
}

int cnd_signal(cnd_t* condition) {
    return outcome(pthread_cond_signal(posix(condition)));
}

int cnd_broadcast(cnd_t* condition) {
    return outcome(pthread_cond_broadcast(posix(condition)));
}

int cnd_wait(cnd_t* condition, mtx_t* mutex) {
    return outcome(pthread_cond_wait(posix(condition), posix(mutex)));
}

int cnd_timedwait(cnd_t* condition, mtx_t* mutex, const timespec* until) {
    return outcome(pthread_cond_timedwait(posix(condition), posix(mutex), until));
}

void call_once(once_flag* flag, void (*function)()) {
    static_assert(sizeof(once_flag) == sizeof(pthread_once_t));
    pthread_once(reinterpret_cast<pthread_once_t*>(flag), function);
}

// Locks that librdkafka takes from POSIX itself: called from here they are looked at too.
int __interceptor_pthread_rwlock_rdlock(pthread_rwlock_t*);
int __interceptor_pthread_rwlock_wrlock(pthread_rwlock_t*);
int __interceptor_pthread_rwlock_unlock(pthread_rwlock_t*);

int pthread_rwlock_rdlock(pthread_rwlock_t* lock) noexcept {
    return __interceptor_pthread_rwlock_rdlock(lock);
}

int pthread_rwlock_wrlock(pthread_rwlock_t* lock) noexcept {
    return __interceptor_pthread_rwlock_wrlock(lock);
}

int pthread_rwlock_unlock(pthread_rwlock_t* lock) noexcept {
    return __interceptor_pthread_rwlock_unlock(lock);
}

}  // extern "C"
