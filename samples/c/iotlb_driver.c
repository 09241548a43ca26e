/*
 * iotlb-driver FILE [FRAMES]: drives a virtio-net device through its vhost file alone, memory handed over by IOTLB
 * messages. FILE is ROOT/dev/vhost-mdev/UUID; the calls are those of a kernel's /dev/vhost-vdpa-N.
 */
#define _GNU_SOURCE
#include "net.h"

#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Which of the interface's own extensions we speak: the second layout of messages is all that is needed. */
static void negotiate_messages(int vhost)
{
	uint64_t offered, wanted = 1ULL << VHOST_BACKEND_F_IOTLB_MSG_V2;

	IOCTL(vhost, VHOST_GET_BACKEND_FEATURES, &offered);
	if ((offered & wanted) != wanted)
		die("the file takes no messages of version 2");
	IOCTL(vhost, VHOST_SET_BACKEND_FEATURES, &wanted);
}

/* A message is a write, and the answer is what write returns. */
static void tell(int vhost, const char *name, struct vhost_iotlb_msg iotlb)
{
	struct vhost_msg_v2 message = { .type = VHOST_IOTLB_MSG_V2, .iotlb = iotlb };
	ssize_t taken = write(vhost, &message, sizeof(message));

	if (taken != (ssize_t)sizeof(message))
		die("%s: %s", name, taken < 0 ? strerror(errno) : "only a part was taken");
}

static void check_range(int vhost)
{
	struct vhost_vdpa_iova_range range;

	IOCTL(vhost, VHOST_VDPA_GET_IOVA_RANGE, &range);
	if (range.first > MEMORY_IOVA || range.last < MEMORY_IOVA + MEMORY_SIZE - 1)
		die("the device reaches %#llx to %#llx only", (long long)range.first, (long long)range.last);
}

static void check_kind(int vhost)
{
	uint32_t id;

	IOCTL(vhost, VHOST_VDPA_GET_DEVICE_ID, &id);
	if (id != VIRTIO_ID_NET)
		die("device id %u is no network card", id);
}

int main(int argc, char **argv)
{
	struct net net;

	if (argc < 2 || argc > 3) {
		fprintf(stderr, "usage: %s FILE [FRAMES]\n", argv[0]);
		return 2;
	}
	unsigned frames = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 1000;

	net.vhost = open_or_die(argv[1]);
	check_kind(net.vhost);
	/* The memory that messages name is the owner's: without one they are refused. */
	IOCTL(net.vhost, VHOST_SET_OWNER, NULL);
	negotiate_messages(net.vhost);
	check_range(net.vhost);
	net_allocate(&net);
	tell(net.vhost, "VHOST_IOTLB_UPDATE", (struct vhost_iotlb_msg){
		.type = VHOST_IOTLB_UPDATE,
		.iova = MEMORY_IOVA,
		.size = MEMORY_SIZE,
		.uaddr = (uintptr_t)net.memory,
		.perm = VHOST_ACCESS_RW,
	});

	net_start(&net);
	net_exchange(&net, frames);
	net_stop(&net);

	/* When the write returns, the device has let go of the memory. */
	tell(net.vhost, "VHOST_IOTLB_INVALIDATE", (struct vhost_iotlb_msg){
		.type = VHOST_IOTLB_INVALIDATE,
		.iova = MEMORY_IOVA,
		.size = MEMORY_SIZE,
	});
	munmap(net.memory, MEMORY_SIZE);
	close(net.vhost);
	return 0;
}
