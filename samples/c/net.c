#define _GNU_SOURCE /* memfd_create */
#include "net.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* An Ethernet type for experiments (IEEE 802), so that we can tell our frames from whatever else is on the wire. */
#define ETHERTYPE 0x88b5
#define PATIENCE_MS 10000

_Noreturn void die(const char *format, ...)
{
	va_list arguments;

	fprintf(stderr, "%s: ", program_invocation_short_name);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(EXIT_FAILURE);
}

int open_or_die(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("open %s: %s", path, strerror(errno));
	return fd;
}

int ioctl_or_die(int fd, unsigned long command, const char *name, void *argument)
{
	int result = ioctl(fd, command, argument);

	if (result < 0)
		die("%s: %s", name, strerror(errno));
	return result;
}

/* Both sides run at once, so what one writes the other must see in order (virtio 1.3, 2.7.13 and 2.7.14). */
static void publish(volatile uint16_t *index, uint16_t value)
{
	atomic_thread_fence(memory_order_release);
	*index = htole16(value);
}

static uint16_t observe(const volatile uint16_t *index)
{
	uint16_t value = le16toh(*index);

	atomic_thread_fence(memory_order_acquire);
	return value;
}

static uint64_t iova(const struct net *net, const void *address)
{
	return MEMORY_IOVA + (uint64_t)((const unsigned char *)address - net->memory);
}

void net_allocate(struct net *net)
{
	/*
	 * Shared memory of tmpfs: the device maps the same pages and uses them in place. Private memory works as well, but
	 * every access then goes through this process.
	 */
	int fd = memfd_create("driver", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, MEMORY_SIZE) < 0)
		die("memfd: %s", strerror(errno));
	net->memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (net->memory == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	close(fd);
	for (unsigned i = 0; i < QUEUES; i++) {
		struct queue *queue = &net->queue[i];

		vring_init(&queue->ring, QUEUE_SIZE, net->memory + i * RING_ROOM, 4096);
		queue->buffers = net->memory + QUEUES * RING_ROOM + i * QUEUE_SIZE * BUFFER_SIZE;
		queue->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		queue->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (queue->kick < 0 || queue->call < 0)
			die("eventfd: %s", strerror(errno));
	}
}

/* One buffer as a chain of one descriptor. The device sees it only when `offered` is published. */
static void offer(struct net *net, struct queue *queue, uint16_t head, uint32_t length, uint16_t flags)
{
	queue->ring.desc[head] = (struct vring_desc){
		.addr = htole64(iova(net, queue->buffers + head * BUFFER_SIZE)),
		.len = htole32(length),
		.flags = htole16(flags),
	};
	queue->ring.avail->ring[queue->offered % QUEUE_SIZE] = htole16(head);
	publish(&queue->ring.avail->idx, ++queue->offered);
}

static void kick(const struct queue *queue)
{
	uint64_t one = 1;

	if (write(queue->kick, &one, sizeof(one)) < 0 && errno != EAGAIN)
		die("kick: %s", strerror(errno));
}

/* Waits for the next used chain: its head and how many bytes the device wrote. */
static uint32_t take(struct queue *queue, const char *what, uint32_t *length)
{
	struct pollfd interrupt = { .fd = queue->call, .events = POLLIN };
	uint64_t counter;

	while (observe(&queue->ring.used->idx) == queue->taken) {
		int ready = poll(&interrupt, 1, PATIENCE_MS);

		if (ready == 0)
			die("timeout: %s", what);
		if (ready < 0 && errno != EINTR)
			die("poll: %s", strerror(errno));
		/* Emptied before the ring is looked at again: an interrupt in between is then seen, not lost. */
		if (read(queue->call, &counter, sizeof(counter)) < 0 && errno != EAGAIN && errno != EINTR)
			die("call: %s", strerror(errno));
	}
	const struct vring_used_elem *element = &queue->ring.used->ring[queue->taken++ % QUEUE_SIZE];
	uint32_t head = le32toh(element->id);

	*length = le32toh(element->len);
	if (head >= QUEUE_SIZE || *length > BUFFER_SIZE)
		die("the device used %u bytes of descriptor %u", *length, head);
	return head;
}

static void set_status(const struct net *net, uint8_t status)
{
	uint8_t now;

	IOCTL(net->vhost, VHOST_VDPA_SET_STATUS, &status);
	IOCTL(net->vhost, VHOST_VDPA_GET_STATUS, &now);
	if (now != status)
		die("status is %#x after %#x was set", now, status);
}

static void program(const struct net *net, unsigned index)
{
	const struct queue *queue = &net->queue[index];
	struct vhost_vring_state size = { .index = index, .num = QUEUE_SIZE };
	struct vhost_vring_state base = { .index = index, .num = 0 };
	struct vhost_vring_state enable = { .index = index, .num = 1 };
	struct vhost_vring_file kick = { .index = index, .fd = queue->kick };
	struct vhost_vring_file call = { .index = index, .fd = queue->call };
	/* The names come from vhost-net; with vhost-vdpa all three are addresses of the device (IOVAs). */
	struct vhost_vring_addr addresses = {
		.index = index,
		.desc_user_addr = iova(net, queue->ring.desc),
		.avail_user_addr = iova(net, queue->ring.avail),
		.used_user_addr = iova(net, queue->ring.used),
	};

	IOCTL(net->vhost, VHOST_SET_VRING_NUM, &size);
	IOCTL(net->vhost, VHOST_SET_VRING_BASE, &base);
	IOCTL(net->vhost, VHOST_SET_VRING_ADDR, &addresses);
	IOCTL(net->vhost, VHOST_SET_VRING_KICK, &kick);
	IOCTL(net->vhost, VHOST_SET_VRING_CALL, &call);
	IOCTL(net->vhost, VHOST_VDPA_SET_VRING_ENABLE, &enable);
}

void net_start(struct net *net)
{
	/* ACCESS_PLATFORM: the device sees our memory through its mappings, not as it is. */
	uint64_t wanted = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_F_ACCESS_PLATFORM;
	uint64_t offered;
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE;

	/* The order of virtio 1.3, 3.1.1. Every status is read back: the device may refuse by not keeping a bit. */
	set_status(net, 0);
	set_status(net, status);
	set_status(net, status |= VIRTIO_CONFIG_S_DRIVER);
	IOCTL(net->vhost, VHOST_GET_FEATURES, &offered);
	if ((offered & wanted) != wanted)
		die("the device offers features %#llx, not all of %#llx", (long long)offered, (long long)wanted);
	IOCTL(net->vhost, VHOST_SET_FEATURES, &wanted);
	set_status(net, status |= VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned i = 0; i < QUEUES; i++)
		program(net, i);
	set_status(net, status |= VIRTIO_CONFIG_S_DRIVER_OK);
	for (uint16_t head = 0; head < QUEUE_SIZE; head++)
		offer(net, &net->queue[0], head, BUFFER_SIZE, VRING_DESC_F_WRITE);
	kick(&net->queue[0]);
}

/* Ethernet header and a payload that is different for every number; its length. */
static uint32_t make_frame(uint32_t number, unsigned char *frame)
{
	uint32_t length = 60 + number * 37 % (FRAME_MAX - 59);

	memset(frame, 0xff, 6);                         /* to everybody */
	memcpy(frame + 6, "\x02\0\0\0\0\x01", 6);       /* from us */
	frame[12] = ETHERTYPE >> 8, frame[13] = ETHERTYPE & 0xff;
	for (uint32_t i = 14; i < length; i++)
		frame[i] = (unsigned char)(number >> (i % 4 * 8)) ^ (unsigned char)(i * 7);
	return length;
}

static void send_frame(struct net *net, const unsigned char *frame, uint32_t length)
{
	struct queue *queue = &net->queue[1];
	uint16_t head = queue->offered % QUEUE_SIZE;
	unsigned char *buffer = queue->buffers + head * BUFFER_SIZE;
	uint32_t written;

	/* All zeros: no checksum to complete, no segmentation. */
	memset(buffer, 0, sizeof(struct virtio_net_hdr_v1));
	memcpy(buffer + sizeof(struct virtio_net_hdr_v1), frame, length);
	offer(net, queue, head, sizeof(struct virtio_net_hdr_v1) + length, 0);
	kick(queue);
	if (take(queue, "the device has not taken a frame", &written) != head)
		die("the device used another descriptor than the one offered");
}

/* The next frame of ours; others are passed over. */
static uint32_t receive_frame(struct net *net, unsigned char *frame)
{
	struct queue *queue = &net->queue[0];
	uint32_t length;

	do {
		uint32_t head = take(queue, "no frame came back", &length);

		if (length < sizeof(struct virtio_net_hdr_v1) + 14)
			die("a frame of %u bytes, header included", length);
		length -= sizeof(struct virtio_net_hdr_v1);
		/* Copied before it is looked at, and the buffer goes back to the device. */
		memcpy(frame, queue->buffers + head * BUFFER_SIZE + sizeof(struct virtio_net_hdr_v1), length);
		offer(net, queue, (uint16_t)head, BUFFER_SIZE, VRING_DESC_F_WRITE);
		kick(queue);
	} while (frame[12] != ETHERTYPE >> 8 || frame[13] != (ETHERTYPE & 0xff));
	return length;
}

void net_exchange(struct net *net, unsigned count)
{
	unsigned char sent[FRAME_MAX], received[BUFFER_SIZE];

	for (unsigned number = 0; number < count; number++) {
		uint32_t length = make_frame(number, sent);

		send_frame(net, sent, length);
		if (receive_frame(net, received) != length || memcmp(sent, received, length) != 0)
			die("frame %u came back changed", number);
	}
	printf("%u frames sent and received\n", count);
}

void net_stop(struct net *net)
{
	set_status(net, 0);
	for (unsigned i = 0; i < QUEUES; i++) {
		close(net->queue[i].kick);
		close(net->queue[i].call);
	}
}
