/*
 * The part of a user-space virtio-net driver that does not care how the device gets at its memory: negotiation, two
 * rings, frames. vfio_driver.c and iotlb_driver.c differ only in how they hand the memory over.
 */
#ifndef NET_H
#define NET_H

#include <linux/types.h>
#include <stdint.h>
/* virtio_ring.h says uintptr_t and relies on its includer for it. */
#include <linux/virtio_ring.h>

enum {
	QUEUE_SIZE = 256,
	QUEUES = 2, /* 0 receives, 1 transmits: virtio 1.3, 5.1.2 */
	BUFFER_SIZE = 2048,
	RING_ROOM = 0x4000, /* more than vring_size(256, 4096) */
	MEMORY_SIZE = QUEUES * (RING_ROOM + QUEUE_SIZE * BUFFER_SIZE),
	FRAME_MAX = 1514,
};

/*
 * Where the device sees the first byte of our memory. Any free range of its address space will do; a virtual machine
 * monitor would use the guest's physical addresses.
 */
#define MEMORY_IOVA 0x100000ULL

struct queue {
	struct vring ring;
	unsigned char *buffers; /* one of BUFFER_SIZE for every descriptor */
	uint16_t offered;       /* chains made available so far, modulo 2^16 */
	uint16_t taken;         /* used chains taken back so far, modulo 2^16 */
	int kick;               /* eventfd: we tell the device */
	int call;               /* eventfd: the device tells us */
};

struct net {
	int vhost;             /* the vhost file of the device */
	unsigned char *memory; /* MEMORY_SIZE bytes, shared with the device */
	struct queue queue[QUEUES];
};

/* Prints what failed and why, and ends the program. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* open(2) for reading and writing, or die. */
int open_or_die(const char *path);

/* ioctl(2), or die with its name. */
int ioctl_or_die(int fd, unsigned long command, const char *name, void *argument);
#define IOCTL(fd, command, argument) ioctl_or_die(fd, command, #command, argument)

/* Shared memory of MEMORY_SIZE bytes. */
void net_allocate(struct net *net);

/* Negotiates with a device that has an owner and can reach the memory, and starts it. */
void net_start(struct net *net);

/* Sends COUNT frames, each with contents of its own, and takes every one back from the other side. */
void net_exchange(struct net *net, unsigned count);

/* Resets the device: when this returns, it no longer touches the memory. */
void net_stop(struct net *net);

#endif
