/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_PTHREAD_H
#define STUB_PTHREAD_H

#include <stddef.h>
#include <time.h>

typedef struct thread *pthread_t;
typedef struct {
    long words[8];
} pthread_mutex_t, pthread_cond_t, pthread_attr_t, pthread_once_t;
typedef unsigned long pthread_key_t;
#define PTHREAD_MUTEX_INITIALIZER {{0x32aaaba7}}
#define PTHREAD_COND_INITIALIZER {{0x3cb0b1bb}}
#define PTHREAD_ONCE_INIT {{0x30b1bcba}}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument);
pthread_t pthread_self(void);
int pthread_equal(pthread_t one, pthread_t other);
int pthread_join(pthread_t thread, void **result);
int pthread_attr_init(pthread_attr_t *attributes);
int pthread_attr_destroy(pthread_attr_t *attributes);
int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t bytes);
int pthread_mutex_init(pthread_mutex_t *mutex, const void *attributes);
int pthread_mutex_destroy(pthread_mutex_t *mutex);
int pthread_mutex_lock(pthread_mutex_t *mutex);
int pthread_mutex_trylock(pthread_mutex_t *mutex);
int pthread_mutex_unlock(pthread_mutex_t *mutex);
int pthread_cond_init(pthread_cond_t *condition, const void *attributes);
int pthread_cond_destroy(pthread_cond_t *condition);
int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex);
int pthread_cond_signal(pthread_cond_t *condition);
int pthread_cond_broadcast(pthread_cond_t *condition);
int pthread_once(pthread_once_t *once, void (*start)(void));
int pthread_key_create(pthread_key_t *key, void (*end)(void *));
void *pthread_getspecific(pthread_key_t key);
int pthread_setspecific(pthread_key_t key, const void *value);
int pthread_sigmask(int how, const void *set, void *old);

#endif
