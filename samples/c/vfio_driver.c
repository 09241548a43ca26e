/*
 * vfio-driver ROOT UUID [FRAMES]: drives a virtio-net device whose memory is mapped through a VFIO container.
 *
 * ROOT is where the files are, such as /run/umdev. Three files make a device: the container holds the mappings, the
 * group connects the device to the container, the vhost file drives it.
 */
#define _GNU_SOURCE
#include "net.h"

#include <errno.h>
#include <linux/vfio.h>
#include <linux/vhost.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int open_below(const char *root, const char *directory, const char *name)
{
	char path[4096];

	if (snprintf(path, sizeof(path), "%s/%s/%s", root, directory, name) >= (int)sizeof(path))
		die("%s: the path is too long", root);
	return open_or_die(path);
}

/* The group's number is the last part of where the device's iommu_group leads. */
static int open_group(const char *root, const char *uuid)
{
	char link[4096], target[4096];

	if (snprintf(link, sizeof(link), "%s/sys/bus/mdev/devices/%s/iommu_group", root, uuid) >= (int)sizeof(link))
		die("%s: the path is too long", root);
	ssize_t length = readlink(link, target, sizeof(target) - 1);
	if (length < 0)
		die("readlink %s: %s", link, strerror(errno));
	target[length] = '\0';
	const char *number = strrchr(target, '/');
	return open_below(root, "dev/vfio", number ? number + 1 : target);
}

static int open_container(const char *root)
{
	int container = open_below(root, "dev/vfio", "vfio");

	if (ioctl(container, VFIO_GET_API_VERSION) != VFIO_API_VERSION)
		die("VFIO has another version than these headers");
	if (ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) != 1)
		die("the container cannot do type 1 mappings");
	return container;
}

static void attach(int group, int container)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };

	IOCTL(group, VFIO_GROUP_GET_STATUS, &status);
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		die("the group is not viable: a device in it has another driver");
	IOCTL(group, VFIO_GROUP_SET_CONTAINER, &container);
	/* Only a container with a group in it can be given its kind of mappings. */
	if (ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) < 0)
		die("VFIO_SET_IOMMU: %s", strerror(errno));
}

static void map(int container, const struct net *net)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (uintptr_t)net->memory,
		.iova = MEMORY_IOVA,
		.size = MEMORY_SIZE,
	};

	IOCTL(container, VFIO_IOMMU_MAP_DMA, &map);
}

static void unmap(int container)
{
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .iova = MEMORY_IOVA, .size = MEMORY_SIZE };

	IOCTL(container, VFIO_IOMMU_UNMAP_DMA, &unmap);
	if (unmap.size != MEMORY_SIZE)
		die("%llu bytes were unmapped, not %d", (unsigned long long)unmap.size, MEMORY_SIZE);
}

int main(int argc, char **argv)
{
	struct net net;

	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: %s ROOT UUID [FRAMES]\n", argv[0]);
		return 2;
	}
	const char *root = argv[1], *uuid = argv[2];
	unsigned frames = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 10) : 1000;

	/* The container and the group come first: a vhost file whose group has no container has no memory. */
	int container = open_container(root);
	int group = open_group(root, uuid);
	attach(group, container);
	net.vhost = open_below(root, "dev/vhost-mdev", uuid);
	/* From here on the rings are this process's alone, also when others have the file open. */
	IOCTL(net.vhost, VHOST_SET_OWNER, NULL);
	net_allocate(&net);
	map(container, &net);

	net_start(&net);
	net_exchange(&net, frames);
	net_stop(&net);

	/* The reverse order. Without it the end of the process does the same. */
	unmap(container);
	munmap(net.memory, MEMORY_SIZE);
	close(net.vhost);
	IOCTL(group, VFIO_GROUP_UNSET_CONTAINER, NULL);
	close(group);
	close(container);
	return 0;
}
