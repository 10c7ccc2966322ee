/* What ane.c uses of threads' quality of service, declared by us for tests without a Mac. */
#ifndef PTHREAD_QOS_H
#define PTHREAD_QOS_H

typedef enum { QOS_CLASS_BACKGROUND = 0x09, QOS_CLASS_DEFAULT = 0x15, QOS_CLASS_USER_INITIATED = 0x19 } qos_class_t;

qos_class_t qos_class_self(void);
int pthread_set_qos_class_self_np(qos_class_t class, int relative_priority);

#endif
