/*
 * The counter guest: makes it visible whether a capture is of one instant.
 *
 * Run by init as `counter`. Everything below is little-endian; "page" is 4096 bytes, page-aligned in guest-physical
 * memory too, so a test looks for the magics at multiples of 4096 of a raw memory image. Each magic is put together
 * at run time: no copy of it stands in the program's file, and a hit is one of these pages.
 *
 *   common head of a page or disk record
 *      0  char magic[16]   not NUL-terminated
 *     16  u64  run         random, the same in all pages and records of one boot
 *     24  u32  index       sweep: number of the page; disk: 0 for vda, 1 for vdb; otherwise 0
 *     28  u32  of          sweep: number of pages, 16384; disk: 2; otherwise 1
 *     32  u64  value
 *
 *   "IMPOUND-SWEEP-01", 16384 pages (64 MiB), scattered in physical memory: the index gives the order.
 *      For v = 1, 2, … the value v is stored into pages 0, 1, … in that order, forever. An image of one instant
 *      holds every page exactly once and there is a k so that pages below k hold v and the others v - 1.
 *
 *   "IMPOUND-COHER-01", one page. For c = 1, 2, … forever: c is stored into this page, then written to /dev/vda,
 *      then to /dev/vdb, each with O_DIRECT|O_SYNC and waited for. Of one instant: mem >= vda >= vdb and
 *      mem - vdb <= 1. Before the first write completes a disk holds what it held; `run` tells. A disk that is absent is skipped.
 *     40  u64  on_vda      last c whose write to vda was acknowledged
 *     48  u64  on_vdb      the same for vdb
 *
 *   "IMPOUND-DISK--01", one record of 4096 bytes at byte 1048576 of each disk, zero after `value`.
 *      (The two pages it is written from stand in memory with the same magic.)
 *
 *   "IMPOUND-STALL-01", one page: value is the longest time in nanoseconds, since the last reset, between two
 *      stores of the sweep, by CLOCK_MONOTONIC. That is how long a writing program was held up. A stopped VM's clock stands
 *      still under TCG, so the time between STOP and RESUME is not in it.
 *     40  u64  resets      how many resets have taken effect
 *     48  u64  worst       the longest since boot, never reset
 *     56  u64  now         CLOCK_MONOTONIC when last looked at
 *
 *   Console (ttyS0, raw): `impound-guest ready` when everything runs and both disks hold a record; after that once a second
 *      stall-ms N stall-us N resets N sweep V coherence C
 *   N since the last reset. Any byte that arrives on the console is a reset; wait for `resets` to grow.
 *   Second serial port, where there is one: a byte '.' every 5 ms, for a clock outside to measure the whole
 *   hold-up (stopped time included) by the longest gap between two arrivals.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define SWEEP_PAGES 16384u
#define RECORD_AT 1048576

struct page {
    char magic[16];
    uint64_t run;
    uint32_t index, of;
    _Atomic uint64_t value;
    _Atomic uint64_t more[3];
    char rest[PAGE - 64];
};
_Static_assert(sizeof(struct page) == PAGE, "a page is 4096 bytes");

static uint64_t run;
static struct page *sweep, *coherence, *stall;
static atomic_uint resets_wanted;
static atomic_int begun;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct page *pages(size_t count)
{
    void *at = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        die("mmap");
    /* A huge page gathered later would leave stale copies of the pages behind. */
    madvise(at, count * PAGE, MADV_NOHUGEPAGE);
    memset(at, 0, count * PAGE);
    return at;
}

/* `disguised` is the magic with every byte's lowest bit flipped. */
static void head(struct page *page, const char *disguised, uint32_t index, uint32_t of)
{
    for (int i = 0; i < 16; i++)
        page->magic[i] = ((const volatile char *)disguised)[i] ^ 1;
    page->run = run;
    page->index = index;
    page->of = of;
}

static const char SWEEP[] = "HLQNTOE,RVDDQ,10";
static const char COHERENCE[] = "HLQNTOE,BNIDS,10";
static const char DISK[] = "HLQNTOE,EHRJ,,10";
static const char STALL[] = "HLQNTOE,RU@MM,10";

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Keeps to one CPU where there are several, so that the threads hold up the sweep as little as can be. */
static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1)
        sched_setaffinity(0, sizeof set, &set);
}

static void *sweeping(void *unused)
{
    uint64_t last = now(), worst = 0, ever = 0, t;
    unsigned resets = 0, wanted;

    pin(0);
    for (uint64_t value = 1;; value++)
        for (uint32_t i = 0; i < SWEEP_PAGES; i++) {
            atomic_store_explicit(&sweep[i].value, value, memory_order_release);
            t = now();
            wanted = atomic_load_explicit(&resets_wanted, memory_order_relaxed);
            if (wanted != resets) {
                resets = wanted;
                worst = 0;
                atomic_store(&stall->value, 0);
                atomic_store(&stall->more[0], resets);
            } else if (t - last > worst) {
                worst = t - last;
                atomic_store(&stall->value, worst);
                if (worst > ever)
                    atomic_store(&stall->more[1], ever = worst);
            }
            last = t;
            if (i % 64 == 0)
                atomic_store_explicit(&stall->more[2], t, memory_order_relaxed);
        }
    return unused;
}

static void *cohering(void *unused)
{
    static const char *const path[2] = {"/dev/vda", "/dev/vdb"};
    struct page *record[2];
    int disk[2];

    pin(1);
    for (uint32_t i = 0; i < 2; i++) {
        disk[i] = open(path[i], O_RDWR | O_DIRECT | O_SYNC | O_CLOEXEC);
        record[i] = pages(1);
        head(record[i], DISK, i, 2);
    }
    for (uint64_t value = 1;; value++) {
        atomic_store(&coherence->value, value);
        for (int i = 0; i < 2; i++) {
            if (disk[i] < 0)
                continue;
            record[i]->value = value;
            if (pwrite(disk[i], record[i], PAGE, RECORD_AT) != (ssize_t)PAGE)
                die(path[i]);
            atomic_store(&coherence->more[i], value);
        }
        begun = 1;
        if (disk[0] < 0 && disk[1] < 0)
            usleep(1000);
    }
    return unused;
}

static void *listening(void *unused)
{
    char byte[64];

    pin(1);
    while (read(STDIN_FILENO, byte, sizeof byte) > 0)
        atomic_fetch_add(&resets_wanted, 1);
    return unused;
}

static void *beating(void *unused)
{
    int port = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct termios raw;
    struct timespec step = {0, 5000000};

    pin(1);
    /* A port that is not there opens, and refuses its settings. */
    if (port < 0 || tcgetattr(port, &raw) != 0)
        return unused;
    cfmakeraw(&raw);
    cfsetspeed(&raw, B115200);
    if (tcsetattr(port, TCSANOW, &raw) != 0)
        return unused;
    while (write(port, ".", 1) == 1)
        nanosleep(&step, NULL);
    return unused;
}

static void start(void *(*what)(void *))
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, what, NULL) != 0)
        die("pthread_create");
}

int main(void)
{
    struct termios raw;

    if (getrandom(&run, sizeof run, GRND_NONBLOCK) != (ssize_t)sizeof run)
        run = now();
    sweep = pages(SWEEP_PAGES);
    coherence = pages(1);
    stall = pages(1);
    mlockall(MCL_CURRENT);
    for (uint32_t i = 0; i < SWEEP_PAGES; i++)
        head(&sweep[i], SWEEP, i, SWEEP_PAGES);
    head(coherence, COHERENCE, 0, 1);
    head(stall, STALL, 0, 1);

    if (tcgetattr(STDIN_FILENO, &raw) == 0) {
        cfmakeraw(&raw);
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    start(sweeping);
    start(cohering);
    start(listening);
    start(beating);
    pin(1);
    while (!begun || sweep[SWEEP_PAGES - 1].value == 0)
        usleep(2000);
    dprintf(STDOUT_FILENO, "impound-guest ready\r\n");
    for (;;) {
        uint64_t ns = stall->value;
        dprintf(STDOUT_FILENO, "stall-ms %llu stall-us %llu resets %llu sweep %llu coherence %llu\r\n",
                (unsigned long long)(ns / 1000000), (unsigned long long)(ns / 1000),
                (unsigned long long)stall->more[0], (unsigned long long)sweep[SWEEP_PAGES - 1].value,
                (unsigned long long)coherence->value);
        sleep(1);
    }
}
