/* Two ranks of MPI: the same measurements as charmbench's of entry methods, written as an MPI program. Prints lines for `charmbench peers`. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 64 };

static int rank;

static void figure(const char *name, const char *unit, double value) {
    if (rank == 0) printf("figure\t%s\t%s\t%.17g\n", name, unit, value);
}

/* Each end sends a buffer of its own, and receives into another. Microseconds one way. */
static double one_way(int size, int rounds) {
    char *from = malloc(size), *to = malloc(size);
    memset(from, 1, size);
    memset(to, 0, size);
    double start = 0;
    for (int round = -rounds / 10 - 1; round < rounds; round++) {
        if (round == 0) start = MPI_Wtime();
        if (rank == 0) {
            MPI_Send(from, size, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
            MPI_Recv(to, size, MPI_CHAR, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        } else {
            MPI_Recv(to, size, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Send(from, size, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
        }
    }
    double time = (MPI_Wtime() - start) / rounds / 2 * 1e6;
    free(from);
    free(to);
    return time;
}

/* Windows of small messages, one answer for each window. Messages a second. */
static double rate(int windows) {
    static char messages[WINDOW][8];
    MPI_Request requests[WINDOW];
    char answer = 0;
    double start = 0;
    for (int window = -windows / 10 - 1; window < windows; window++) {
        if (window == 0) start = MPI_Wtime();
        for (int i = 0; i < WINDOW; i++) {
            if (rank == 0) MPI_Isend(messages[i], 8, MPI_CHAR, 1, 0, MPI_COMM_WORLD, &requests[i]);
            else MPI_Irecv(messages[i], 8, MPI_CHAR, 0, 0, MPI_COMM_WORLD, &requests[i]);
        }
        MPI_Waitall(WINDOW, requests, MPI_STATUSES_IGNORE);
        if (rank == 0) MPI_Recv(&answer, 1, MPI_CHAR, 1, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        else MPI_Send(&answer, 1, MPI_CHAR, 0, 1, MPI_COMM_WORLD);
    }
    return (double)windows * WINDOW / (MPI_Wtime() - start);
}

static double allreduce(int rounds) {
    double one = 1, sum = 0, start = 0;
    for (int round = -rounds / 10; round < rounds; round++) {
        if (round == 0) start = MPI_Wtime();
        MPI_Allreduce(&one, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    }
    return (MPI_Wtime() - start) / rounds * 1e6;
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    figure("one way, 8 B", "us", one_way(8, 20000));
    figure("one way, 64 KiB", "us", one_way(64 << 10, 2000));
    figure("one way, 1 MiB", "us", one_way(1 << 20, 300));
    figure("small messages", "1/s", rate(5000));
    figure("allreduce, 8 B", "us", allreduce(20000));
    MPI_Finalize();
    return 0;
}
