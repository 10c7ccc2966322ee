/* Objects, CoreFoundation, IOSurface, pools and threads of fake.h. */
#include "fake.h"

#include <IOSurface/IOSurfaceRef.h>
#include <pthread/qos.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void *pool);
CFStringRef NSTemporaryDirectory(void);

const CFArrayCallBacks kCFTypeArrayCallBacks;
const CFDictionaryKeyCallBacks kCFTypeDictionaryKeyCallBacks;
const CFDictionaryValueCallBacks kCFTypeDictionaryValueCallBacks;

/* ---- what is told to the tests ---- */

static char report[1 << 18], steps[1 << 17], complaints[1 << 14];
static int live;

static void append(char *text, size_t bytes, const char *start, const char *format, va_list rest) {
    size_t used = strlen(text);
    used += (size_t)snprintf(text + used, bytes - used, "%s", start);
    if (used < bytes)
        used += (size_t)vsnprintf(text + used, bytes - used, format, rest);
    if (used + 1 < bytes)
        memcpy(text + used, "\n", 2);
}

void fake_complain(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    append(complaints, sizeof complaints, "complaint: ", format, rest);
    va_end(rest);
}

void fake_note(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    append(steps, sizeof steps, "", format, rest);
    va_end(rest);
}

const char *fake_report(void) {
    snprintf(report, sizeof report, "live %d\n%s%s", live, complaints, steps);
    return report;
}

static void write_report(void) {
    FILE *file = fopen(getenv("FAKE_ANE_REPORT"), "w");
    if (file) {
        fputs(fake_report(), file);
        fclose(file);
    }
}

/* ---- faults ---- */

enum { MOST_FAULTS = 8 };
static struct {
    char name[120];
    int from, to, seen;
} faults[MOST_FAULTS];
static int fault_count;

void fake_faults(const char *list) {
    fault_count = 0;
    while (*list && fault_count < MOST_FAULTS) {
        size_t length = strcspn(list, ",");
        char one[120];
        snprintf(one, sizeof one, "%.*s", (int)length, list);
        char *at = strchr(one, '@');
        int from = 1, to = 1 << 30;
        if (at) {
            *at++ = '\0';
            char *end;
            from = to = (int)strtol(at, &end, 10);
            if (*end == '-')
                to = end[1] ? atoi(end + 1) : 1 << 30;
        }
        memcpy(faults[fault_count].name, one, sizeof one);
        faults[fault_count].from = from;
        faults[fault_count].to = to;
        faults[fault_count++].seen = 0;
        list += length + (list[length] == ',');
    }
}

__attribute__((constructor)) static void begin(void) {
    if (getenv("FAKE_ANE"))
        fake_faults(getenv("FAKE_ANE"));
    if (getenv("FAKE_ANE_REPORT"))
        atexit(write_report);
}

bool fake_faulty(const char *name) {
    bool faulty = false;
    for (int i = 0; i < fault_count; i++)
        if (strcmp(faults[i].name, name) == 0) {
            int call = ++faults[i].seen;
            faulty |= faults[i].from <= call && call <= faults[i].to;
        }
    return faulty;
}

/* ---- objects ---- */

id fake_new(enum Kind kind, const void *bytes, size_t length) {
    id object = need(1, sizeof *object);
    *object = (struct objc_object){.kind = kind, .references = 1, .length = length};
    object->bytes = need(length + 1, 1); /* strings end with a zero */
    if (bytes)
        memcpy(object->bytes, bytes, length);
    live++;
    return object;
}

bool fake_is(const void *object, enum Kind kind) {
    return object && ((id)object)->kind == kind;
}

void fake_hold(id object, id held) {
    id *items = need(object->count + 1, sizeof *items);
    if (object->count)
        memcpy(items, object->items, object->count * sizeof *items);
    free(object->items);
    object->items = items;
    items[object->count++] = (id)CFRetain(held);
}

CFTypeRef CFRetain(CFTypeRef reference) {
    id object = (id)reference;
    if (!object->constant)
        object->references++;
    return object;
}

void CFRelease(CFTypeRef reference) {
    id object = (id)reference;
    if (object->constant || --object->references > 0)
        return;
    if (object->state)
        fake_model_gone(object->state);
    for (size_t i = 0; i < object->count; i++)
        CFRelease(object->items[i]);
    if (object->locks)
        fake_complain("a surface is gone while it is locked");
    free(object->items);
    free(object->bytes);
    free(object);
    live--;
}

/* ---- pools ---- */

enum { DEEPEST = 8, MOST_IN_POOL = 256 };
static struct {
    id objects[MOST_IN_POOL];
    int count;
} pools[DEEPEST];
static int depth;

void *objc_autoreleasePoolPush(void) {
    if (depth == DEEPEST)
        fake_complain("pools are pushed and not popped");
    else
        pools[depth++].count = 0;
    return &pools[depth - 1];
}

void objc_autoreleasePoolPop(void *pool) {
    if (depth == 0 || pool != &pools[depth - 1]) {
        fake_complain("the pool that is popped is not the last one");
        return;
    }
    depth--;
    for (int i = 0; i < pools[depth].count; i++)
        CFRelease(pools[depth].objects[i]);
}

id fake_autorelease(id object) {
    if (depth == 0)
        fake_complain("an object is autoreleased without a pool");
    else if (pools[depth - 1].count == MOST_IN_POOL)
        fake_complain("a pool grows without end");
    else
        pools[depth - 1].objects[pools[depth - 1].count++] = object;
    return object;
}

/* ---- CoreFoundation ---- */

CFStringRef fake_constant(const char *text) {
    enum { MOST = 16 };
    static struct objc_object constants[MOST];
    static int count;
    for (int i = 0; i < count; i++)
        if (strcmp(constants[i].bytes, text) == 0)
            return (CFStringRef)&constants[i];
    if (count == MOST)
        fail("fake_constant: too many");
    constants[count] =
        (struct objc_object){.kind = STRING, .constant = true, .bytes = (char *)text, .length = strlen(text)};
    return (CFStringRef)&constants[count++];
}

CFStringRef CFCopyDescription(CFTypeRef object) {
    if (!fake_is(object, ERROR))
        fake_complain("a description is wanted of what is no error");
    if (fake_faulty("description"))
        return NULL;
    return (CFStringRef)fake_new(STRING, ((id)object)->bytes, ((id)object)->length);
}

CFIndex CFErrorGetCode(CFErrorRef error) {
    return (CFIndex)((id)error)->number;
}

CFStringRef CFErrorGetDomain(CFErrorRef error) {
    return (CFStringRef)((id)error)->items[0];
}

CFStringRef CFStringCreateWithCString(CFAllocatorRef allocator, const char *text, CFStringEncoding encoding) {
    if (allocator || encoding != kCFStringEncodingUTF8)
        fake_complain("a string is not of UTF-8");
    return (CFStringRef)fake_new(STRING, text, strlen(text));
}

Boolean CFStringGetCString(CFStringRef string, char *buffer, CFIndex bytes, CFStringEncoding encoding) {
    id object = (id)string;
    if (!fake_is(object, STRING) || encoding != kCFStringEncodingUTF8)
        fake_complain("the text is wanted of what is no string");
    if (object->length + 1 > (size_t)bytes)
        return false;
    memcpy(buffer, object->bytes, object->length);
    buffer[object->length] = '\0';
    return true;
}

static bool starts_character(char byte) {
    return (byte & 0xC0) != 0x80;
}

/* Of UTF-16, as CFString counts. */
CFIndex CFStringGetLength(CFStringRef string) {
    CFIndex units = 0;
    for (const char *c = ((id)string)->bytes; *c; c++)
        units += starts_character(*c) + ((*c & 0xF8) == 0xF0);
    return units;
}

CFIndex CFStringGetBytes(CFStringRef string, CFRange range, CFStringEncoding encoding, UInt8 loss_byte,
                         Boolean is_external, UInt8 *buffer, CFIndex most_bytes, CFIndex *used_bytes) {
    id object = (id)string;
    if (!fake_is(object, STRING) || encoding != kCFStringEncodingUTF8 || loss_byte == 0 || is_external ||
        range.location != 0 || range.length != CFStringGetLength(string))
        fake_complain("bytes are wanted of what is no string, or of a part of it");
    size_t used = object->length < (size_t)most_bytes ? object->length : (size_t)most_bytes;
    while (!starts_character(object->bytes[used])) /* the zero at the end starts one */
        used--;
    memcpy(buffer, object->bytes, used);
    *used_bytes = (CFIndex)used;
    CFIndex characters = 0;
    for (size_t i = 0; i < used; i++)
        characters += starts_character(object->bytes[i]);
    return characters;
}

CFDataRef CFDataCreate(CFAllocatorRef allocator, const UInt8 *bytes, CFIndex length) {
    (void)allocator;
    return (CFDataRef)fake_new(DATA, bytes, (size_t)length);
}

CFNumberRef CFNumberCreate(CFAllocatorRef allocator, CFNumberType type, const void *value) {
    (void)allocator;
    if (type != kCFNumberSInt64Type)
        fake_complain("a number is of type %ld", (long)type);
    id number = fake_new(NUMBER, NULL, 0);
    memcpy(&number->number, value, sizeof number->number);
    return (CFNumberRef)number;
}

CFArrayRef CFArrayCreate(CFAllocatorRef allocator, const void **values, CFIndex count, const CFArrayCallBacks *are) {
    (void)allocator;
    if (are != &kCFTypeArrayCallBacks)
        fake_complain("an array does not hold its values");
    id array = fake_new(ARRAY, NULL, 0);
    for (CFIndex i = 0; i < count; i++)
        fake_hold(array, (id)values[i]);
    return (CFArrayRef)array;
}

CFMutableDictionaryRef CFDictionaryCreateMutable(CFAllocatorRef allocator, CFIndex capacity,
                                                 const CFDictionaryKeyCallBacks *keys_are,
                                                 const CFDictionaryValueCallBacks *values_are) {
    (void)allocator;
    if (capacity != 0 || keys_are != &kCFTypeDictionaryKeyCallBacks || values_are != &kCFTypeDictionaryValueCallBacks)
        fake_complain("a dictionary does not hold its values, or cannot grow");
    return (CFMutableDictionaryRef)fake_new(DICTIONARY, NULL, 0);
}

void CFDictionarySetValue(CFMutableDictionaryRef dictionary, const void *key, const void *value) {
    if (!fake_is(key, STRING) || fake_value((id)dictionary, ((id)key)->bytes))
        fake_complain("a key of a dictionary is no string, or is there already");
    fake_hold((id)dictionary, (id)key);
    fake_hold((id)dictionary, (id)value);
}

CFDictionaryRef CFDictionaryCreate(CFAllocatorRef allocator, const void **keys, const void **values, CFIndex count,
                                   const CFDictionaryKeyCallBacks *keys_are,
                                   const CFDictionaryValueCallBacks *values_are) {
    CFMutableDictionaryRef dictionary = CFDictionaryCreateMutable(allocator, 0, keys_are, values_are);
    for (CFIndex i = 0; i < count; i++)
        CFDictionarySetValue(dictionary, keys[i], values[i]);
    return dictionary;
}

id fake_value(id dictionary, const char *key) {
    for (size_t i = 0; i + 1 < dictionary->count; i += 2)
        if (strcmp(dictionary->items[i]->bytes, key) == 0)
            return dictionary->items[i + 1];
    return NULL;
}

CFStringRef NSTemporaryDirectory(void) {
    if (fake_faulty("temporary"))
        return NULL;
    char path[1024];
    int length = snprintf(path, sizeof path, "%s/", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    return (CFStringRef)fake_autorelease(fake_new(STRING, path, (size_t)length));
}

/* ---- IOSurface ---- */

#define KEY(name) \
    static struct objc_object key_##name = {.kind = STRING, .constant = true, .bytes = #name}; \
    const CFStringRef kIOSurface##name = (CFStringRef)&key_##name;
KEY(Width)
KEY(Height)
KEY(BytesPerElement)
KEY(BytesPerRow)
KEY(AllocSize)
KEY(PixelFormat)

static int64_t property(id properties, const char *key) {
    id value = fake_value(properties, key);
    return fake_is(value, NUMBER) ? value->number : -1;
}

IOSurfaceRef IOSurfaceCreate(CFDictionaryRef dictionary) {
    id properties = (id)dictionary;
    int64_t bytes = property(properties, "AllocSize");
    fake_note("surface %lld", (long long)bytes);
    if (properties->count != 12 || property(properties, "Width") != bytes || property(properties, "Height") != 1 ||
        property(properties, "BytesPerElement") != 1 || property(properties, "BytesPerRow") != bytes ||
        property(properties, "PixelFormat") != 0)
        fake_complain("a surface is not one row of bytes");
    if (bytes < 65536 || bytes % 16384)
        fake_complain("a surface has %lld bytes", (long long)bytes);
    if (bytes < 0 || fake_faulty("surface"))
        return NULL;
    id memory = fake_new(MEMORY, NULL, (size_t)bytes);
    memset(memory->bytes, 0xff, memory->length); /* whoever wants zeros must write them */
    return (IOSurfaceRef)memory;
}

kern_return_t IOSurfaceLock(IOSurfaceRef surface, IOSurfaceLockOptions options, uint32_t *seed) {
    id memory = (id)surface;
    if (memory->locks || seed)
        fake_complain("a surface is locked twice");
    if (fake_faulty("lock"))
        return (kern_return_t)0xe00002c9;
    memory->locks = options == kIOSurfaceLockReadOnly ? 1 : 2;
    return 0;
}

kern_return_t IOSurfaceUnlock(IOSurfaceRef surface, IOSurfaceLockOptions options, uint32_t *seed) {
    id memory = (id)surface;
    if (memory->locks != (options == kIOSurfaceLockReadOnly ? 1 : 2) || seed)
        fake_complain("a surface is unlocked otherwise than it was locked");
    memory->locks = 0;
    return fake_faulty("unlock") ? (kern_return_t)0xe00002c9 : 0;
}

void *IOSurfaceGetBaseAddress(IOSurfaceRef surface) {
    if (((id)surface)->locks == 0)
        fake_complain("the address is wanted of a surface that is not locked");
    return ((id)surface)->bytes;
}

size_t IOSurfaceGetAllocSize(IOSurfaceRef surface) {
    return ((id)surface)->length;
}

/* ---- threads ---- */

qos_class_t qos_class_self(void) {
    return fake_faulty("background") ? QOS_CLASS_BACKGROUND : QOS_CLASS_DEFAULT;
}

int pthread_set_qos_class_self_np(qos_class_t class, int relative_priority) {
    fake_note("thread %d %d", (int)class, relative_priority);
    return 0;
}
