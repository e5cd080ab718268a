// One odd program for each argument; each says in /tmp/planted that it stands, and then waits for ever.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/if_ether.h>
#include <linux/perf_event.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

static void stand(const char *role)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/planted/%s", role);
    must(close(creat(path, 0644)) == 0, path);
    for (;;) pause();
}

// Runs itself anew from a file that is in memory only.
static void from_memory(void)
{
    struct stat about;
    int self = open("/proc/self/exe", O_RDONLY), copy = memfd_create("planted-memfd", 0);
    must(self >= 0 && copy >= 0 && fstat(self, &about) == 0, "memfd");
    must(sendfile(copy, self, NULL, about.st_size) == about.st_size, "sendfile");
    char *arguments[] = {"[kworker/7:7]", "again", NULL}, *environment[] = {NULL};
    fexecve(copy, arguments, environment);
    must(0, "fexecve");
}

static void writable_code(void)
{
    // push rbp; mov rbp, rsp; xor eax, eax; leave; ret
    static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x31, 0xc0, 0xc9, 0xc3};
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(page != MAP_FAILED, "mmap");
    memcpy(page, code, sizeof code);
    must(((int (*)(void))page)() == 0, "the code");
}

static void traced(void)
{
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) pause();
    }
    must(ptrace(PTRACE_SEIZE, child, 0, 0) == 0, "ptrace");
}

static void sockets(void)
{
    must(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) >= 0, "raw");
    must(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)) >= 0, "packet");
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(5353)};
    must(bind(socket(AF_INET, SOCK_DGRAM, 0), (struct sockaddr *)&here, sizeof here) == 0, "udp");
}

// User 1000, who may trace anybody and open raw sockets.
static void capabilities(void)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {0};
    must(prctl(PR_SET_KEEPCAPS, 1) == 0 && setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0, "ids");
    data[0].effective = data[0].permitted = 1u << CAP_NET_RAW | 1u << CAP_SYS_PTRACE;
    must(syscall(SYS_capset, &head, data) == 0, "capset");
}

static void namespaces(void)
{
    must(unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWIPC) == 0, "unshare");
    must(sethostname("planted-elsewhere", 17) == 0, "sethostname");
}

// A program that returns a number and does nothing else.
static int load(int kind, const char *name, int answer)
{
    struct bpf_insn program[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = answer},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr about = {
        .prog_type = kind,
        .insn_cnt = 2,
        .insns = (unsigned long)program,
        .license = (unsigned long)"GPL",
    };
    strncpy(about.prog_name, name, sizeof about.prog_name - 1);
    int loaded = syscall(SYS_bpf, BPF_PROG_LOAD, &about, sizeof about);
    must(loaded >= 0, "bpf");
    return loaded;
}

// Lets every packet pass.
static void filter(void)
{
    int loaded = load(BPF_PROG_TYPE_SOCKET_FILTER, "planted_filter", 0xffff);
    int on = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_IP));
    must(setsockopt(on, SOL_SOCKET, SO_ATTACH_BPF, &loaded, sizeof loaded) == 0, "attach");
}

// Runs a program whenever a processor has worked for an hour.
static void event(void)
{
    struct perf_event_attr about = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof about,
        .config = PERF_COUNT_SW_CPU_CLOCK,
        .sample_period = 3600000000000,
    };
    int opened = syscall(SYS_perf_event_open, &about, -1, 0, -1, 0);
    must(opened >= 0, "perf_event_open");
    must(ioctl(opened, PERF_EVENT_IOC_SET_BPF, load(BPF_PROG_TYPE_PERF_EVENT, "planted_event", 0)) == 0, "set bpf");
}

int main(int count, char **arguments)
{
    const char *role = count > 1 ? arguments[1] : "";
    if (!strcmp(role, "memfd")) from_memory();
    if (!strcmp(role, "again")) role = "memfd";
    if (!strcmp(role, "rwx")) writable_code();
    if (!strcmp(role, "traced")) traced();
    if (!strcmp(role, "sockets")) sockets();
    if (!strcmp(role, "caps")) capabilities();
    if (!strcmp(role, "namespaces")) namespaces();
    if (!strcmp(role, "filter")) filter();
    if (!strcmp(role, "event")) event();
    char name[16];
    snprintf(name, sizeof name, "plant-%s", role);
    prctl(PR_SET_NAME, name);
    stand(role);
}
